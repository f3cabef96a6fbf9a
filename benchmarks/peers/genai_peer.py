"""onnxruntime-genai: its loop and its cache around a graph of the same weights, described as its type "decoder"."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import start_tokens
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.extras import import_module

Int64Array = npt.NDArray[np.int64]

GRAPH = "model.onnx"


class GenaiDrawer:
    """Draws with ``Generator.generate_next_token``, greedily."""

    def __init__(self, job: Job) -> None:
        self._package: Any = import_module("onnxruntime_genai")
        self.runner = f"onnxruntime-genai {self._package.__version__}"
        self._model = self._package.Model(str(job.folder))

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` codes of each row, int64 (B, count)."""
        settings = self._package.GeneratorParams(self._model)
        settings.set_search_options(batch_size=batch, max_length=count + 1, do_sample=False)
        generator = self._package.Generator(self._model, settings)
        generator.append_tokens(start_tokens(batch).astype(np.int32)[:, None])
        for _ in range(count):
            generator.generate_next_token()
        return np.stack([generator.get_sequence(row)[1:] for row in range(batch)]).astype(np.int64)


def prepare(job: Job) -> None:
    """Write the graph and the package's description of it."""
    from trt_vqgan.benchmarks.peers.genai_graph import genai_graph

    genai_graph(job.transformer, job.weights, precision=job.precision).save(job.folder / GRAPH)
    (job.folder / "genai_config.json").write_text(json.dumps(_config(job)), encoding="utf-8")


def open_drawer(job: Job) -> GenaiDrawer:
    """Return the package's generator."""
    return GenaiDrawer(job)


def _config(job: Job) -> dict[str, Any]:
    spec = job.transformer
    return {
        "model": {
            "type": "decoder",
            "vocab_size": spec.vocab_size,
            "context_length": spec.max_seq_len,
            "bos_token_id": job.never,
            "eos_token_id": job.never,
            "pad_token_id": job.never,  # rows that begin with it would be masked
            "decoder": {
                "filename": GRAPH,
                "session_options": {"intra_op_num_threads": job.threads},
                "hidden_size": spec.hidden_size,
                "head_size": spec.head_size,
                "num_attention_heads": spec.num_heads,
                "num_key_value_heads": spec.num_heads,
                "num_hidden_layers": spec.num_layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"past_present_share_buffer": True, "do_sample": False},
    }
