"""How near one picture is to another."""

from __future__ import annotations

import math

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.images import ImageArray

PEAK = 255.0


def psnr_db(image: ImageArray, other: ImageArray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 pictures of the same shape, in dB; inf for equal ones."""
    if image.shape != other.shape:
        raise ShapeError(f"psnr: found shapes {image.shape} and {other.shape}, wanted the same")
    difference = image.astype(np.float32) - other.astype(np.float32)
    mean_square = float(np.mean(np.square(difference), dtype=np.float64))
    return math.inf if mean_square == 0.0 else 10.0 * math.log10(PEAK * PEAK / mean_square)
