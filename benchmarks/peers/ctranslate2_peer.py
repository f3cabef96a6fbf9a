"""CTranslate2: a GPT-2 model of the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import start_tokens
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.benchmarks.peers.weights import fused_qkv
from trt_vqgan.extras import import_module
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]


class CTranslate2Drawer:
    """Draws with ``Generator.generate_batch``."""

    def __init__(self, job: Job) -> None:
        package = import_module("ctranslate2")
        self.runner = f"CTranslate2 {package.__version__}"
        self._generator: Any = package.Generator(
            str(_model(job)), device="cpu", compute_type=job.precision, inter_threads=1, intra_threads=job.threads
        )

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` codes of each row, int64 (B, count)."""
        results = self._generator.generate_batch(
            [[str(token)] for token in start_tokens(batch)],
            max_batch_size=batch,
            max_length=count,
            min_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return np.array([result.sequences_ids[0] for result in results], dtype=np.int64)


def prepare(job: Job) -> None:
    """Write the model in the package's form."""
    quantization = None if job.precision == "float32" else job.precision
    _convert(job.transformer, job.weights, _model(job), quantization=quantization, never=job.never)


def open_drawer(job: Job) -> CTranslate2Drawer:
    """Return the package's generator."""
    return CTranslate2Drawer(job)


def _model(job: Job) -> Path:
    return job.folder / "model"


def _convert(
    spec: TransformerSpec, weights: Mapping[str, Any], target: Path, *, quantization: str | None, never: int
) -> None:
    specs = import_module("ctranslate2.specs")
    model = specs.TransformerDecoderModelSpec.from_config(
        spec.num_layers, spec.num_heads, pre_norm=True, activation=specs.common_spec.Activation.GELU
    )
    decoder = model.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["transformer.tok_emb.weight"]
    decoder.position_encodings.encodings = weights["transformer.pos_emb"].reshape(spec.max_seq_len, spec.hidden_size)

    def norm(to: Any, key: str) -> None:
        to.gamma, to.beta = weights[f"transformer.{key}.weight"], weights[f"transformer.{key}.bias"]

    def linear(to: Any, key: str) -> None:
        to.weight, to.bias = weights[f"transformer.{key}.weight"], weights[f"transformer.{key}.bias"]

    for index, layer in enumerate(decoder.layer):
        block = f"blocks.{index}"
        norm(layer.self_attention.layer_norm, f"{block}.ln1")
        fused = layer.self_attention.linear[0]
        fused.weight, fused.bias = fused_qkv(weights, index)
        linear(layer.self_attention.linear[1], f"{block}.attn.proj")
        norm(layer.ffn.layer_norm, f"{block}.ln2")
        linear(layer.ffn.linear_0, f"{block}.mlp.0")
        linear(layer.ffn.linear_1, f"{block}.mlp.2")
    norm(decoder.layer_norm, "ln_f")
    decoder.projection.weight = weights["transformer.head.weight"]
    model.register_vocabulary([str(i) for i in range(spec.vocab_size)])
    model.config.bos_token, model.config.unk_token, model.config.eos_token = "0", "0", str(never)
    model.validate()
    model.optimize(quantization=quantization)
    target.mkdir()
    model.save(str(target))
