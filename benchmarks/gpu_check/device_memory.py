"""Random arrays in device memory, in as many copies as the L2 cache can't hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device, upload_new

MAX_COPIES = 128
OF_L2 = 3
"""Copies take at least so many times the L2 cache, so that each launch reads memory."""


def copies_beyond_cache(nbytes: int, *, l2: int) -> int:
    """Return how many copies of ``nbytes`` to rotate through: at least 2, at most `MAX_COPIES`."""
    return max(2, min(MAX_COPIES, -(-OF_L2 * l2 // max(nbytes, 1))))


def random_halves(device: Device, shape: tuple[int, ...], *, scale: float = 1.0, seed: int = 0) -> DeviceArray:
    """Return random float16 in device memory; large ones repeat a block of 4 M numbers."""
    return upload_new(device, halves(shape, scale=scale, seed=seed))


def halves(shape: tuple[int, ...], *, scale: float = 1.0, seed: int = 0) -> npt.NDArray[Any]:
    """Return random float16, normal with a deviation of ``scale``; large ones repeat a block of 4 M numbers."""
    size = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    block = (scale * rng.standard_normal(min(size, 1 << 22), np.float32)).astype(np.float16)
    return np.resize(block, shape)
