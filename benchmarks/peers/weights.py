"""A transformer's weights as other runtimes keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def fused_qkv(weights: Mapping[str, Any], layer: int) -> tuple[FloatArray, FloatArray]:
    """Return weight float32 (3 d, d) and bias float32 (3 d,) of a layer's queries, keys and values, in this order."""
    names = [f"transformer.blocks.{layer}.attn.{part}" for part in ("query", "key", "value")]
    matrix, bias = (np.concatenate([weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
    return matrix, bias
