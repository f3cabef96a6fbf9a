"""What lies between a VQGAN's convolutions and is neither a norm nor attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def channels_last(planes: NDArray[np.float32], pitch: int) -> NDArray[np.float32]:
    """Return (B, H, W, pitch) of planes (B, C, H, W), zero beyond the last channel."""
    batch, channels, height, width = planes.shape
    out = np.zeros((batch, height, width, pitch), np.float32)
    out[..., :channels] = planes.transpose(0, 2, 3, 1)
    return out


def shrink(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of 2x2 pixels, (B, H/2, W/2, C), in float32: rows first."""
    y = x.astype(np.float32)
    above, below = y[:, ::2], y[:, 1::2]
    sums = (above[:, :, ::2] + above[:, :, 1::2]) + (below[:, :, ::2] + below[:, :, 1::2])
    return sums * np.float32(0.25)


def repeat(x: NDArray[Any]) -> NDArray[Any]:
    """Return each pixel twice along both axes, (B, 2H, 2W, C)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def argmax_rows(x: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the lowest index of each row's largest value, int32 (rows,); NaN is never the largest."""
    best: NDArray[np.intp] = np.where(np.isnan(x), -np.inf, x).argmax(axis=1)
    return best.astype(np.int32)
