"""Weights in blocks: near what they stand for, exact where they can be, and in the layout that is told."""

from __future__ import annotations

import numpy as np
import pytest

from trt_vqgan.export.weight_quantization import INT4, INT8, BlockForm, quantize_blockwise, quantize_rows

FORMS = pytest.mark.parametrize("form", [INT8, INT4], ids=["int8", "int4"])


def random_matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)


@FORMS
@pytest.mark.parametrize("columns", [1, 31, 64, 100])
def test_every_weight_is_near(form: BlockForm, columns: int) -> None:
    matrix = random_matrix(7, columns)
    found = quantize_blockwise(matrix, form)
    blocks = -(-columns // form.block)
    assert found.codes.shape == (7, blocks, form.block * form.bits // 8)
    assert found.scales.shape == (7, blocks)
    np.testing.assert_array_equal(found.scales, found.scales.astype(np.float16))
    step = np.abs(np.repeat(found.scales, form.block, axis=1)[:, :columns])
    error = np.abs(found.dequantized(columns) - matrix)
    # half a step; 4-bit codes end at 7 steps on one side, and their scale may be chosen a quarter smaller
    assert (error <= (0.5 if form is INT8 else 3.0) * step + 1e-6).all()
    assert np.mean(error <= 0.5 * step + 1e-6) > 0.9


def test_whole_numbers_of_four_bits_are_exact() -> None:
    matrix = np.random.default_rng(0).integers(-8, 8, (5, 64)).astype(np.float32)
    matrix[:, ::32] = -8
    np.testing.assert_array_equal(quantize_blockwise(matrix * 0.25, INT4).dequantized(64), matrix * 0.25)
    np.testing.assert_array_equal(quantize_blockwise(matrix * -0.25, INT4).dequantized(64), matrix * -0.25)


def test_the_earlier_of_two_codes_lies_in_the_low_half() -> None:
    row = np.zeros((1, 32), dtype=np.float32)
    row[0, :2] = -8, 7
    assert quantize_blockwise(row, INT4).codes[0, 0, 0] == 0 | 15 << 4


def test_a_chosen_scale_is_better_than_the_largest_weights() -> None:
    matrix = random_matrix(64, 256)
    grouped = matrix.reshape(64, 8, 32)
    scale = np.abs(grouped).max(axis=2, keepdims=True) / 7
    plain = np.rint(grouped / scale) * scale
    found = quantize_blockwise(matrix, INT4).dequantized(256)
    assert ((found - matrix) ** 2).sum() < 0.8 * ((plain.reshape(64, 256) - matrix) ** 2).sum()


@FORMS
def test_zeros_stay_zeros(form: BlockForm) -> None:
    np.testing.assert_array_equal(quantize_blockwise(np.zeros((3, 70)), form).dequantized(70), np.zeros((3, 70)))


def test_rows_of_a_table() -> None:
    table = random_matrix(9, 50)
    codes, scales = quantize_rows(table)
    assert codes.dtype == np.int8
    assert (np.abs(codes * scales - table) <= 0.5 * scales + 1e-6).all()
