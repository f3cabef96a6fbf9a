"""The table of weights, against the published parameter counts and the reference modules."""

from __future__ import annotations

import dataclasses
import math

import pytest

from trt_vqgan.benchmarks.shapes import PUBLISHED_F16 as F16
from trt_vqgan.export.key_shapes import autoencoder_shapes, expected_shapes, transformer_shapes
from trt_vqgan.spec import ConditionSpec, ModelSpec, TransformerSpec


def parameters(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> int:
    """Count parameters below a prefix."""
    return sum(math.prod(shape) for key, shape in shapes.items() if key.startswith(prefix))


def test_published_autoencoder_counts() -> None:
    shapes = autoencoder_shapes(F16)
    assert round(parameters(shapes, "encoder.") / 1e6, 1) == 29.3
    assert round(parameters(shapes, "decoder.") / 1e6, 1) == 42.4


@pytest.mark.parametrize(
    ("vocab", "block", "layers", "heads", "width", "millions"),
    [
        (1024, 512, 24, 16, 1024, 305),
        (8192, 512, 32, 16, 1280, 651),
        (16384, 256, 48, 24, 1536, 1410),
        (1024, 512, 24, 16, 1664, 802),
    ],
)
def test_published_transformer_counts(
    vocab: int, block: int, layers: int, heads: int, width: int, millions: int
) -> None:
    spec = TransformerSpec(vocab_size=vocab, max_seq_len=block, num_layers=layers, num_heads=heads, hidden_size=width)
    assert parameters(transformer_shapes(spec)) / 1e6 == pytest.approx(millions, rel=0.004)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantizer": "gumbel", "channel_multipliers": (1, 1, 2, 4), "attention_resolutions": (32,)},
        {"conv_shortcut": True, "resample_with_conv": False},
        {"use_attention": False},
        {"attention_resolutions": (256, 64, 16), "num_res_blocks": 1, "code_dim": 8, "in_channels": 182},
    ],
)
def test_autoencoder_keys_are_those_of_the_modules(changes: dict[str, object]) -> None:
    pytest.importorskip("torch")
    from trt_vqgan.export.vqgan_modules import Autoencoder

    spec = dataclasses.replace(F16, base_channels=32, **changes)  # type: ignore[arg-type]
    wanted = {key: tuple(value.shape) for key, value in Autoencoder(spec).state_dict().items()}
    assert autoencoder_shapes(spec) == wanted


def test_transformer_keys_are_those_of_the_module() -> None:
    pytest.importorskip("torch")
    from trt_vqgan.export.gpt_modules import GPT

    spec = TransformerSpec(vocab_size=10, max_seq_len=12, num_layers=2, num_heads=2, hidden_size=8)
    state = GPT(spec).state_dict()
    wanted = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("attn.mask")}
    assert transformer_shapes(spec) == wanted


def test_prefixes() -> None:
    transformer = TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=1, num_heads=1, hidden_size=8)
    own = ConditionSpec(kind="autoencoder", num_tokens=256, autoencoder=F16)
    spec = ModelSpec(autoencoder=F16, transformer=transformer, condition=own)
    shapes = expected_shapes(spec)
    assert parameters(shapes, "condition.") == parameters(shapes, "first_stage.") == parameters(autoencoder_shapes(F16))
    assert parameters(shapes, "transformer.") == parameters(transformer_shapes(transformer))
    assert set(expected_shapes(ModelSpec(autoencoder=F16))) == {f"first_stage.{key}" for key in autoencoder_shapes(F16)}
