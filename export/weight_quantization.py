"""Weight-only int8: symmetric blocks along the inner axis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 64
"""Inner-axis weights that share a scale. 32 and 64 gave bit-equal rows at every batch size, 128 didn't."""


@dataclasses.dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix (N, K): codes uint8 (N, blocks, 64) around 128, scales float32 (N, blocks) exact in float16."""

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]

    def dequantized(self, columns: int) -> npt.NDArray[np.float32]:
        """Return the matrix that the codes stand for, float32 (N, ``columns``)."""
        values = (self.codes.astype(np.float32) - 128) * self.scales[:, :, None]
        return values.reshape(len(self.codes), -1)[:, :columns]


def quantize_blockwise(matrix: npt.NDArray[Any]) -> QuantizedMatrix:
    """Return ``matrix`` float (N, K) as int8 blocks: scale = largest magnitude / 127, rounded to float16.

    The codes are computed with the rounded scale, so that storing scales in float16 adds no error of its own.
    """
    rows, columns = matrix.shape
    blocks = -(-columns // BLOCK_SIZE)
    padded = np.zeros((rows, blocks * BLOCK_SIZE), dtype=np.float32)
    padded[:, :columns] = matrix
    grouped = padded.reshape(rows, blocks, BLOCK_SIZE)
    largest = np.abs(grouped).max(axis=2)
    # a scale below float16's smallest normal number would lose its precision there; such blocks are all but zero
    scales = np.maximum(largest / 127, 6.2e-5).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(grouped / scales[:, :, None]), -127, 127) + 128
    return QuantizedMatrix(codes.astype(np.uint8), scales)
