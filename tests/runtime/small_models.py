"""Tiny transformers for runtime tests: random weights, the reference module, and the engine made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.export.transformer_graph import transformer_graph
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import AutoencoderSpec, TransformerSpec

ENGINE: type[TransformerEngine] | type[NativeEngine] = TransformerEngine
"""What `make_model` opens; tests/runtime/native runs the tests of other folders with another."""


@dataclasses.dataclass(frozen=True)
class SmallModel:
    """A reference GPT and the engine of its exported graph."""

    spec: TransformerSpec
    reference: GPT
    engine: Any

    def reference_logits(self, tokens: np.ndarray) -> np.ndarray:
        """Return the reference's logits float32 (B, T, V) of tokens int64 (B, T)."""
        with torch.no_grad():
            return self.reference(torch.from_numpy(tokens)).numpy()


def random_gpt(spec: TransformerSpec, seed: int = 0) -> GPT:
    """Return a reference GPT whose random weights make logits of order one and attention that is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(spec).eval()
    for name, parameter in model.named_parameters():
        is_norm = ".ln" in f".{name}" and name.endswith("weight")
        parameter.data.normal_(1.0 if is_norm else 0.0, 0.15, generator=generator)
    return model


def make_model(folder: Path, *, precision: str = "fp32", seed: int = 0, **sizes: int) -> SmallModel:
    """Export a random GPT into ``folder`` and open it with two threads."""
    defaults = {"vocab_size": 61, "max_seq_len": 200, "num_layers": 2, "num_heads": 2, "hidden_size": 64}
    spec = TransformerSpec(**(defaults | sizes))
    reference = random_gpt(spec, seed)
    weights = {f"transformer.{key}": value.detach().numpy() for key, value in reference.state_dict().items()}
    transformer_graph(spec, weights, precision=precision).save(folder / "transformer.onnx")
    return SmallModel(spec, reference, ENGINE(folder / "transformer.onnx", spec, threads=2))


def random_tokens(spec: TransformerSpec, batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Return tokens int64 (batch, length)."""
    return np.random.default_rng(seed).integers(0, spec.vocab_size, (batch, length))


def small_autoencoder(side: int, codebook_size: int) -> AutoencoderSpec:
    """Return a VQGAN whose training grid has ``side`` x ``side`` codes of 2x2 pixels."""
    return AutoencoderSpec(
        quantizer="nearest",
        in_channels=3,
        out_channels=3,
        base_channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        attention_resolutions=(),
        resolution=2 * side,
        z_channels=8,
        code_dim=8,
        codebook_size=codebook_size,
    )
