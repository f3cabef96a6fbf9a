"""Weights in the order in which the kernels of the decode step read them.

A matrix W (N, K) is cut into tiles of 16 outputs x 32 inputs. A tile is two operands of the tensor-core product
m16n8k16 (``kernels/csrc/tensor_core.cuh`` has its fragment map), and each operand is 32 lanes x 8 halves: what one load
of 16 bytes brings a lane. Within a tile the inputs are dealt out so that lane c of four holds eight consecutive ones,
from 8 c on:

    packed[tile, block, product, 4 g + c, 4 r + 2 h + e] = W[16 tile + 8 h + g, 32 block + 8 c + 4 product + 2 r + e]

for g < 8, c < 4 and product, r, h, e < 2. The activations are dealt out alike, so the sum over k is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

TILE_OUTPUTS = 16
BLOCK_INPUTS = 32

FloatArray = NDArray[np.floating[Any]]


def packed_shape(outputs: int, inputs: int) -> tuple[int, int, int, int, int]:
    """Return the shape of packed weights: tiles, blocks, products, lanes, halves of a lane."""
    return -(-outputs // TILE_OUTPUTS), -(-inputs // BLOCK_INPUTS), 2, 32, 8


def packed_bytes(outputs: int, inputs: int) -> int:
    """Return the size of packed weights."""
    return int(np.prod(packed_shape(outputs, inputs))) * 2


def pack_weights(weight: FloatArray) -> NDArray[np.float16]:
    """Return the packed weights of a matrix, float16 of `packed_shape`, C-contiguous.

    Parameters
    ----------
    weight : (N, K), float16 or wider; rounded to float16. What is missing to whole tiles is zero.

    Raises
    ------
    ShapeError
        If it isn't a matrix, or has a number that float16 can't hold.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise ShapeError(f"pack_weights: found an array of shape {weight.shape}, wanted a matrix (N, K)")
    outputs, inputs = weight.shape
    tiles, blocks, *_ = packed_shape(outputs, inputs)
    padded = np.zeros((tiles * TILE_OUTPUTS, blocks * BLOCK_INPUTS), np.float16)
    with np.errstate(over="ignore"):
        padded[:outputs, :inputs] = weight
    if not np.isfinite(padded).all():
        raise ShapeError("pack_weights: found a weight that is not finite in float16")
    # axes: tile, h, g, block, c, product, r, e
    split = padded.reshape(tiles, 2, 8, blocks, 4, 2, 2, 2)
    return np.ascontiguousarray(split.transpose(0, 3, 5, 2, 4, 6, 1, 7)).reshape(packed_shape(outputs, inputs))


def unpack_weights(packed: NDArray[np.float16], *, outputs: int, inputs: int) -> NDArray[np.float16]:
    """Return the matrix (N, K) that was packed."""
    if packed.shape != packed_shape(outputs, inputs):
        raise ShapeError(f"unpack_weights: found {packed.shape}, wanted {packed_shape(outputs, inputs)}")
    tiles, blocks, *_ = packed.shape
    split = packed.reshape(tiles, blocks, 2, 8, 4, 2, 2, 2).transpose(0, 6, 3, 1, 4, 2, 5, 7)
    return np.ascontiguousarray(split.reshape(tiles * TILE_OUTPUTS, blocks * BLOCK_INPUTS)[:outputs, :inputs])
