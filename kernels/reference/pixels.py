"""A decoder's planes as pictures, truncated as the published code does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pixels(planes: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (x + 1) x 127.5 in float32, clipped to 0 … 255 and truncated; NaN becomes 0.

    Parameters
    ----------
    planes : float16 or float32 (B, C, H, W), about [-1, 1].

    Returns
    -------
    uint8 (B, H, W, C)
    """
    with np.errstate(invalid="ignore"):  # signalling NaN
        scaled = (planes.astype(np.float32) + np.float32(1)) * np.float32(127.5)
    levels = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
