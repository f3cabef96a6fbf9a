"""Launches of `kernels/csrc/picture_layout.cu`."""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

_THREADS = 256
_NAMES = {np.dtype(np.float16): "half", np.dtype(np.float32): "float"}


def channels_last(
    *, planes: int, out: int, batch: int, channels: int, plane: int, pitch: int, made: np.dtype[Any]
) -> Launch:
    """Return the launch that makes (B, plane, pitch) of float32 planes (B, C, plane)."""
    count = batch * plane * pitch
    sizes = (np.int32(plane), np.int32(channels), np.int32(pitch))
    return _each(f"channels_last_{_NAMES[made]}", planes, out, sizes, count)


def convert(*, x: int, out: int, count: int, given: np.dtype[Any], made: np.dtype[Any]) -> Launch:
    """Return the launch that makes float16 of float32, or the reverse."""
    return _each(f"{_NAMES[given]}_to_{_NAMES[made]}", x, out, (), count)


def shrink(*, x: int, out: int, rows: int, width: int, pitch: int, dtype: np.dtype[Any]) -> Launch:
    """Return the launch that makes means of 2x2 pixels: ``rows`` of all pictures, ``width`` and pitch as made."""
    return _each(f"shrink_{_NAMES[dtype]}", x, out, (np.int32(width), np.int32(pitch)), rows * width * pitch)


def repeat(*, x: int, out: int, rows: int, width: int, pitch: int, dtype: np.dtype[Any]) -> Launch:
    """Return the launch that makes each pixel twice: ``rows`` of all pictures, ``width`` and pitch of what is read."""
    return _each(f"repeat_{_NAMES[dtype]}", x, out, (np.int32(width), np.int32(pitch)), 4 * rows * width * pitch)


def argmax_rows(*, x: int, codes: int, rows: int, columns: int, pitch: int) -> Launch:
    """Return the launch that makes codes int32 (rows,) of float32 (rows, pitch), the first ``columns`` of each."""
    if min(rows, columns) < 1 or pitch < columns:
        raise ShapeError(f"argmax_rows: found {rows} rows of {columns} columns, pitch {pitch}")
    return Launch(
        kernel="argmax_rows",
        grid=(-(-rows // 8), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(np.uint64(x), np.uint64(codes), np.int32(rows), np.int32(columns), np.int32(pitch)),
    )


def _each(kernel: str, x: int, out: int, sizes: tuple[np.int32, ...], count: int) -> Launch:
    """Return a launch of a thread a result."""
    if count < 1:
        raise ShapeError(f"{kernel}: found no result to make")
    return Launch(
        kernel=kernel,
        grid=(-(-count // _THREADS), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(np.uint64(x), np.uint64(out), *sizes, np.int64(count)),
    )
