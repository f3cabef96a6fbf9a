"""Launches of `kernels/csrc/picture_attention.cu`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

WIDTHS = (128, 256, 512)
"""Channels that there are kernels for; fewer are padded in shared memory."""

_QUERIES, _KEYS, _WARPS = 16, 32, 4


def picture_attention(
    *,
    q: int,
    k: int,
    v: int,
    out: int,
    batch: int,
    positions: int,
    channels: int,
    pitch: int,
    dtype: np.dtype[Any],
    shared_limit: int,
) -> Launch:
    """Return the launch that does `trt_vqgan.kernels.reference.picture_attention.picture_attention`.

    Parameters
    ----------
    q, k, v, out : addresses on the device: (B, positions, pitch) with ``channels`` used, a multiple of 8.
    dtype : of all, float16 or float32.
    shared_limit : dynamic shared memory that a block may have, in bytes.

    Raises
    ------
    ShapeError : no position, channels that there is no kernel for, or more positions than the float32 one takes.
    """
    if min(batch, positions, channels) < 1 or channels % 8 or pitch < channels or pitch % 8:
        raise ShapeError(
            f"picture_attention: found {batch} pictures of {positions} positions, {channels} channels and pitch {pitch}"
        )
    scale = np.float32(math.log2(math.e) / math.sqrt(channels))
    arguments: tuple[np.generic, ...] = (
        *(np.uint64(address) for address in (q, k, v, out)),
        *(np.int32(size) for size in (positions, channels, pitch)),
        scale,
    )
    if dtype == np.float32:
        shared_bytes = (positions + 8) * 4
        if shared_bytes > shared_limit:
            raise ShapeError(
                f"picture_attention: found {positions} positions in float32, wanted at most {shared_limit // 4 - 8}; "
                "decode in tiles (--decode-tiles)"
            )
        grid, threads, kernel = (positions, batch, 1), 256, "picture_attention_float"
    else:
        width = next((width for width in WIDTHS if channels <= width), None)
        if width is None:
            raise ShapeError(f"picture_attention: found {channels} channels, wanted at most {WIDTHS[-1]}")
        row = width + 8
        halves = (_QUERIES + 2 * _KEYS) * row + _QUERIES * (_KEYS + 8)
        shared_bytes = halves * 2 + 2 * _WARPS * _QUERIES * 4
        grid, threads, kernel = (-(-positions // _QUERIES), batch, 1), 32 * _WARPS, f"picture_attention_{width}"
    return Launch(kernel=kernel, grid=grid, block=(threads, 1, 1), shared_bytes=shared_bytes, arguments=arguments)
