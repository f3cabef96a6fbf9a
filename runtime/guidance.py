"""Classifier-free guidance: each picture has a second row, of the condition that stands for none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance: logits = without + scale x (with - without the condition).

    Attributes
    ----------
    scale : 0 is without the condition, 1 with it, more goes beyond.
    null_condition : int64 (L,), the tokens that stand for no condition.
    """

    scale: float
    null_condition: Int64Array

    def conditions(self, conditions: Int64Array) -> Int64Array:
        """Return ``conditions`` (B, L) with the null condition of each below them, (2B, L)."""
        return np.concatenate([conditions, np.broadcast_to(self.null_condition, conditions.shape)])

    def combined(self, logits: FloatArray) -> FloatArray:
        """Return the logits float32 (…, B, V) that codes are drawn from, of those of all rows (…, 2B, V)."""
        half = logits.shape[-2] // 2
        given, without = logits[..., :half, :], logits[..., half:, :]
        result: FloatArray = without + np.float32(self.scale) * (given - without)
        return result


def beside_conditions(rows: npt.NDArray[Any], guidance: Guidance | None) -> npt.NDArray[Any]:
    """Return ``rows`` (B, …) as often as there are conditions for each: twice with guidance."""
    return rows if guidance is None else np.concatenate([rows, rows])
