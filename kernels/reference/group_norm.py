"""GroupNorm of 32 groups, and swish where it follows, channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 32
EPSILON = 1e-6


def group_norm(
    x: NDArray[Any], gain: NDArray[np.float32], bias: NDArray[np.float32], *, swish: bool
) -> NDArray[np.float64]:
    """Return the normalised pictures, computed in float64.

    Parameters
    ----------
    x : (B, H, W, C), C a multiple of 32.
    gain, bias : (C,).
    swish : whether the result goes through y / (1 + exp(-y)).
    """
    batch, height, width, channels = x.shape
    grouped = x.astype(np.float64).reshape(batch, height * width, GROUPS, channels // GROUPS)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = np.square(grouped - mean).mean(axis=(1, 3), keepdims=True)
    normalised = ((grouped - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    y: NDArray[np.float64] = normalised * gain + bias
    if not swish:
        return y
    with np.errstate(over="ignore"):
        swished: NDArray[np.float64] = y / (1 + np.exp(-y))
    return swished
