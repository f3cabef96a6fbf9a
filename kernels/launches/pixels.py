"""Launches of `kernels/csrc/pixels.cu`."""

from __future__ import annotations

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

_THREADS = 256
_PIXELS_OF_THREAD = 4


def pixels(
    *, planes: int, pictures: int, batch: int, channels: int, height: int, width: int, dtype: np.dtype[np.floating]
) -> Launch:
    """Return the launch that does `trt_vqgan.kernels.reference.pixels.pixels`.

    Parameters
    ----------
    planes, pictures : addresses on the device, aligned to 16 bytes: (B, C, H, W) and uint8 (B, H, W, C).
    dtype : of the planes, float16 or float32.

    Raises
    ------
    ShapeError : a size below 1, or another dtype.
    """
    if min(batch, channels, height, width) < 1:
        raise ShapeError(
            f"pixels: found {batch} pictures of {channels} x {height} x {width}, wanted at least 1 of each"
        )
    names = {np.dtype(np.float16): "pixels_half", np.dtype(np.float32): "pixels_float"}
    if dtype not in names:
        raise ShapeError(f"pixels: found planes of {dtype}, wanted float16 or float32")
    plane = height * width
    return Launch(
        kernel=names[dtype],
        grid=(-(-plane // (_THREADS * _PIXELS_OF_THREAD)), batch, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(np.uint64(planes), np.uint64(pictures), np.int32(channels), np.int32(plane)),
    )
