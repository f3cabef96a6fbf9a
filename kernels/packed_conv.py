"""A convolution's weights as the conv2d kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

GRANULE = 8
"""Channels that are read at once: a picture's channels are padded to a multiple of them."""

DEPTH = 32
NARROW = 16
"""Most output channels of the kernel for few of them."""

WIDE, USUAL = 128, 64
"""Channels of a tile."""


def pitch_of(channels: int) -> int:
    """Return the channels that a picture of so many is padded to."""
    return -(-channels // GRANULE) * GRANULE


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """The sizes of a packed convolution.

    Attributes
    ----------
    channels, outputs : that it reads and makes.
    padded_outputs : with those of a last tile that don't exist.
    side : of the kernel, 1 or 3.
    depth : products of a result, those with zeros included.
    is_half : float16 on tensor cores, else float32 throughout.
    """

    channels: int
    outputs: int
    padded_outputs: int
    side: int
    depth: int
    is_half: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedConv:
    """Weights and bias, padded with zeros to whole tiles.

    Attributes
    ----------
    layer : their sizes.
    weights : float16 (padded outputs, depth), depth being taps x padded channels, padded to a multiple of 32; or
        float32 (taps x padded channels, padded outputs).
    bias : float32 (padded outputs,).
    """

    layer: ConvLayer
    weights: NDArray[Any]
    bias: NDArray[np.float32]


def pack_conv(weight: NDArray[Any], bias: NDArray[Any]) -> PackedConv:
    """Return a layer for the kernels: half on tensor cores where ``weight`` is float16, else float32.

    Parameters
    ----------
    weight : (O, I, k, k), float16 or float32.
    bias : (O,).

    Raises
    ------
    ShapeError : another shape, or a kernel that is neither 1x1 nor 3x3.
    """
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] not in (1, 3):
        raise ShapeError(f"pack_conv: found weights {weight.shape}, wanted (outputs, inputs, k, k) with k 1 or 3")
    if bias.shape != weight.shape[:1] or 0 in weight.shape or weight.dtype not in (np.float16, np.float32):
        raise ShapeError(f"pack_conv: found {weight.dtype} {weight.shape} and bias {bias.shape}")
    outputs, channels, side, _ = weight.shape
    is_half = weight.dtype == np.float16
    tile = USUAL
    if is_half:
        tile = NARROW if outputs <= NARROW else WIDE if outputs > USUAL else USUAL
    padded = -(-outputs // tile) * tile
    by_tap = np.zeros((padded, side, side, pitch_of(channels)), weight.dtype)
    by_tap[:outputs, ..., :channels] = weight.transpose(0, 2, 3, 1)
    flat = by_tap.reshape(padded, -1)
    padded_bias = np.zeros(padded, np.float32)
    padded_bias[:outputs] = bias
    if is_half:
        packed = np.zeros((padded, -(-flat.shape[1] // DEPTH) * DEPTH), np.float16)
        packed[:, : flat.shape[1]] = flat
    else:
        packed = np.ascontiguousarray(flat.T)
    layer = ConvLayer(
        channels=channels,
        outputs=outputs,
        padded_outputs=padded,
        side=side,
        depth=int(packed.shape[1 if is_half else 0]),
        is_half=is_half,
    )
    return PackedConv(layer=layer, weights=packed, bias=padded_bias)
