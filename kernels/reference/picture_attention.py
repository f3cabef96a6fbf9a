"""Attention of each position of a picture to all, with one head."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def picture_attention(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any]) -> NDArray[np.float64]:
    """Return softmax(q k^T / sqrt(C)) v of (B, N, C) each, computed in float64."""
    scores = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1) / np.sqrt(q.shape[2])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    mixed: NDArray[np.float64] = weights / weights.sum(axis=2, keepdims=True) @ v.astype(np.float64)
    return mixed
