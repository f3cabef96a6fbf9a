"""The model that ``--shape LAYERSxWIDTH`` means."""

from __future__ import annotations

import dataclasses

from trt_vqgan.errors import SpecError
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec

VOCAB_SIZE = 1024
"""The smaller of the published sizes."""

PUBLISHED_F16 = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=128,
    channel_multipliers=(1, 1, 2, 2, 4),
    num_res_blocks=2,
    attention_resolutions=(16,),
    resolution=256,
    z_channels=256,
    code_dim=256,
    codebook_size=VOCAB_SIZE,
)
"""The published VQGAN of 16 pixels a code, as its config describes it, with the smaller codebook."""

HEAD_SIZE = 64
"""Of the published transformers, whose width is a multiple of it; other widths get 16 heads, or one."""


def parse_shape(text: str) -> tuple[int, int]:
    """Return (layers, width) of "12x768".

    Raises
    ------
    SpecError : it isn't of that form.
    """
    layers, cross, width = text.lower().partition("x")
    if not (cross and layers.isdecimal() and width.isdecimal() and int(layers) >= 1 and int(width) >= 1):
        raise SpecError(f"{text!r} is no LAYERSxWIDTH, for example 12x768")
    return int(layers), int(width)


def model_of_shape(layers: int, *, width: int) -> ModelSpec:
    """Return an unconditional model: the published f16 VQGAN at 256x256 pixels, so 256 codes, and a GPT of this shape.

    Raises
    ------
    SpecError : no layers or no width.
    """
    if layers < 1 or width < 1:
        raise SpecError(f"shape: found {layers}x{width}, wanted LAYERSxWIDTH of at least 1 each, for example 12x768")
    heads = width // HEAD_SIZE if width % HEAD_SIZE == 0 else 16 if width % 16 == 0 else 1
    return ModelSpec(
        autoencoder=PUBLISHED_F16,
        transformer=TransformerSpec(
            vocab_size=VOCAB_SIZE, max_seq_len=257, num_layers=layers, num_heads=heads, hidden_size=width
        ),
        condition=ConditionSpec(kind="unconditional", num_tokens=1),
    )


def with_positions(spec: ModelSpec, positions: int) -> ModelSpec:
    """Return the model with a transformer of at least so many positions."""
    assert spec.transformer is not None
    longest = max(positions, spec.transformer.max_seq_len)
    return dataclasses.replace(spec, transformer=dataclasses.replace(spec.transformer, max_seq_len=longest))
