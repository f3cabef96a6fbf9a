"""A VQGAN's convolution, channels last."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["same", "halve", "double"]
"""To as many pixels; to every second one, padded right and bottom by one; of the picture with each pixel twice."""


def conv2d(
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any],
    *,
    mode: Mode = "same",
    residual: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return the convolution, and the residual where one is given, summed in float64.

    Parameters
    ----------
    x : (B, H, W, I).
    weight : (O, I, k, k) with k 1 or 3, as published.
    bias : (O,).
    residual : like the result.

    Returns
    -------
    (B, H', W', O)
    """
    side = weight.shape[2]
    if mode == "double":
        x = x.repeat(2, axis=1).repeat(2, axis=2)
    before, stride = (0, 2) if mode == "halve" else (side // 2, 1)
    height, width = (x.shape[1] // stride, x.shape[2] // stride)
    behind = side - 1 - before
    padded = np.pad(x.astype(np.float64), ((0, 0), (before, behind), (before, behind), (0, 0)))
    out = np.broadcast_to(bias.astype(np.float64), (len(x), height, width, len(bias))).copy()
    for r in range(side):
        for s in range(side):
            rows, columns = slice(r, r + height * stride, stride), slice(s, s + width * stride, stride)
            out += padded[:, rows, columns] @ weight[:, :, r, s].astype(np.float64).T
    return out if residual is None else out + residual
