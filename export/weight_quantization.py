"""Weight-only int8: symmetric, matrices in blocks along the inner axis, embedding tables by row."""

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
    scales = _half_scales(largest)
    codes = np.clip(np.rint(grouped / scales[:, :, None]), -127, 127) + 128
    return QuantizedMatrix(codes.astype(np.uint8), scales)


def quantize_rows(table: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return an embedding table float (N, D) as codes int8 (N, D) and scales float32 (N, 1), exact in float16."""
    scales = _half_scales(np.abs(table).max(axis=1, keepdims=True))
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def _half_scales(largest: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return largest / 127 rounded to float16.

    A scale below float16's smallest normal number would lose its precision there; what it scales is all but zero.
    """
    scales: npt.NDArray[np.float32] = np.maximum(largest / 127, 6.2e-5).astype(np.float16).astype(np.float32)
    return scales
