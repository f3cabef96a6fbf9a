"""What a model's parts must compute and read at least, from its sizes alone.

An operation is one multiplication or one addition; normalisations, softmax and activations are left out, as usual.
"""

from __future__ import annotations

import math

from trt_vqgan.errors import SpecError
from trt_vqgan.export.key_shapes import autoencoder_shapes
from trt_vqgan.spec import AutoencoderSpec, TransformerSpec

INT8_BLOCK, INT4_BLOCK = 64, 32
PRECISIONS = ("fp32", "int8", "int4")


def step_weight_bytes(spec: TransformerSpec, precision: str, *, scale_bytes: int = 4) -> int:
    """Return the bytes of the matrices that one decode step reads once, whatever the batch.

    Attention and MLP of each layer, 12 x width^2, and the head, V x width. Of the embeddings only single rows are read.

    Parameters
    ----------
    precision : "fp32"; "int8": a byte a weight, and a scale for each block of 64; "int4": half a byte, and a scale for
        each block of 32, but the head as in int8.
    scale_bytes : of a scale in memory.

    Raises
    ------
    SpecError : an unknown precision.
    """
    if precision not in PRECISIONS:
        raise SpecError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    layers, head = 12 * spec.num_layers * spec.hidden_size**2, spec.vocab_size * spec.hidden_size
    if precision == "fp32":
        return 4 * (layers + head)
    head += head * scale_bytes // INT8_BLOCK
    if precision == "int8":
        return layers + layers * scale_bytes // INT8_BLOCK + head
    return layers // 2 + layers * scale_bytes // INT4_BLOCK + head


def step_operations(spec: TransformerSpec, *, batch: int, positions: int) -> int:
    """Return the operations of one decode step of ``batch`` rows, each over a cache of ``positions`` positions."""
    width = spec.hidden_size
    dense = 12 * spec.num_layers * width * width + spec.vocab_size * width
    return 2 * batch * (dense + 2 * spec.num_layers * width * positions)


def prefill_operations(spec: TransformerSpec, *, batch: int, tokens: int, rows: int) -> int:
    """Return the operations of a prefill of ``tokens`` tokens with logits for ``rows`` of them, in each of the batch.

    Attention is counted over the pairs that see each other, T (T + 1) / 2.
    """
    width = spec.hidden_size
    dense = 12 * width * width * tokens
    attention = 2 * width * tokens * (tokens + 1) // 2
    return 2 * batch * (spec.num_layers * (dense + attention) + rows * width * spec.vocab_size)


def encoder_operations(spec: AutoencoderSpec) -> int:
    """Return the operations of encoding one picture of the training size, up to the latents."""
    return _operations(spec, "encoder.", "quant_conv.", "quantize.proj.")


def decoder_operations(spec: AutoencoderSpec) -> int:
    """Return the operations of decoding one picture of the training size."""
    return _operations(spec, "decoder.", "post_quant_conv.")


def _operations(spec: AutoencoderSpec, *prefixes: str) -> int:
    total = 0
    for key, shape in autoencoder_shapes(spec).items():
        if not key.startswith(prefixes) or len(shape) != 4:
            continue
        positions = _side(spec, key) ** 2
        total += 2 * math.prod(shape) * positions
        if key.endswith(".q.weight"):  # scores and the mix of values, all positions with all
            total += 2 * 2 * shape[0] * positions**2
    return total


def _side(spec: AutoencoderSpec, key: str) -> int:
    """Return the side of what the convolution ``key`` puts out, for a training picture."""
    parts = key.split(".")
    if key.startswith(("encoder.down.", "decoder.up.")):
        level = int(parts[2])
        moved = {"downsample": 1, "upsample": -1}.get(parts[3], 0)
        return spec.resolution >> (level + moved)
    at_full_size = key.startswith(("encoder.conv_in", "decoder.conv_out"))
    return spec.resolution if at_full_size else spec.latent_size
