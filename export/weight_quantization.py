"""Weights of 8 or 4 bits: matrices in blocks along the inner axis with one scale each, embedding tables by row."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

SCALE_FACTORS = np.linspace(0.76, 1.0, 13, dtype=np.float32)
"""Of the scale that holds a 4-bit block's largest weight, those that are tried; the one with the least squared error is
taken. Clipping the largest weight a little leaves the others finer steps."""

SMALLEST_SCALE = 6.2e-5
"""Above float16's smallest normal number, below which precision is lost; less would scale what is all but 0."""


@dataclasses.dataclass(frozen=True)
class BlockForm:
    """How a matrix is kept: ``bits`` a code (8 or 4), and ``block`` inner-axis weights that share a scale."""

    bits: int
    block: int

    @property
    def zero(self) -> int:
        """The code that stands for 0."""
        return 1 << (self.bits - 1)


INT8 = BlockForm(8, 64)
"""Blocks of 32 and 64 gave bit-equal rows at every batch size, 128 didn't."""

INT4 = BlockForm(4, 32)


@dataclasses.dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix (N, K): codes uint8 (N, blocks, bytes of a block), scales float32 (N, blocks) exact in float16.

    Two 4-bit codes share a byte, the earlier one in its low half.
    """

    form: BlockForm
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]

    def dequantized(self, columns: int) -> npt.NDArray[np.float32]:
        """Return the matrix that the codes stand for, float32 (N, ``columns``)."""
        codes = self.codes
        if self.form.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=3).reshape(*codes.shape[:2], -1)
        values = (codes.astype(np.float32) - self.form.zero) * self.scales[:, :, None]
        return values.reshape(len(codes), -1)[:, :columns]


def quantize_blockwise(matrix: npt.NDArray[Any], form: BlockForm = INT8) -> QuantizedMatrix:
    """Return ``matrix`` float (N, K) in blocks.

    8 bits: scale = largest magnitude / 127. 4 bits: the largest weight becomes -8 (its scale may be negative), then the
    best of `SCALE_FACTORS`. Scales are rounded to float16 before codes are computed with them, so that storing them
    adds no error of its own.
    """
    rows, columns = matrix.shape
    blocks = -(-columns // form.block)
    padded = np.zeros((rows, blocks * form.block), dtype=np.float32)
    padded[:, :columns] = matrix
    grouped = padded.reshape(rows, blocks, form.block)
    if form.bits == 8:
        scales = _half_scales(np.abs(grouped).max(axis=2))
        codes = np.clip(np.rint(grouped / scales[:, :, None]), -127, 127) + form.zero
        return QuantizedMatrix(form, codes.astype(np.uint8), scales)
    scales = _best_scales(grouped, form.zero)
    codes = (_codes(grouped, scales, form.zero) + form.zero).astype(np.uint8)
    return QuantizedMatrix(form, codes[:, :, 0::2] | codes[:, :, 1::2] << 4, scales)


def _best_scales(grouped: npt.NDArray[np.float32], zero: int) -> npt.NDArray[np.float32]:
    """Return the scale of each block (N, blocks, block) that leaves the least squared error."""
    places = np.abs(grouped).argmax(axis=2)[:, :, None]
    whole = np.take_along_axis(grouped, places, axis=2)[:, :, 0] / -zero
    whole = np.where(np.abs(whole) < SMALLEST_SCALE, np.float32(SMALLEST_SCALE), whole)
    best = np.zeros(whole.shape, dtype=np.float32)
    least = np.full(whole.shape, np.inf)
    for factor in SCALE_FACTORS:
        scales = (whole * factor).astype(np.float16).astype(np.float32)
        error = ((_codes(grouped, scales, zero) * scales[:, :, None] - grouped) ** 2).sum(axis=2)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return best


def _codes(grouped: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], zero: int) -> npt.NDArray[np.float32]:
    """Return whole numbers from -zero to zero - 1."""
    codes: npt.NDArray[np.float32] = np.clip(np.rint(grouped / scales[:, :, None]), -zero, zero - 1)
    return codes


def quantize_rows(table: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return an embedding table float (N, D) as codes int8 (N, D) and scales float32 (N, 1), exact in float16."""
    scales = _half_scales(np.abs(table).max(axis=1, keepdims=True))
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales


def _half_scales(largest: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return largest / 127 rounded to float16, at least `SMALLEST_SCALE`."""
    scales: npt.NDArray[np.float32] = np.maximum(largest / 127, SMALLEST_SCALE).astype(np.float16).astype(np.float32)
    return scales
