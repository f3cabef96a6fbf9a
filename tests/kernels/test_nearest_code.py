"""nearest_code against its plain definition, and against what the published code chose."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.nearest_code import (
    CASES,
    Case,
    code_plus_noise,
    fresh_codebook,
    gaussian,
    offset,
)
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference.nearest_code import nearest_code, nearest_code_plain

F32 = NDArray[np.float32]


def _by_definition(z: F32, codebook: F32) -> NDArray[np.int64]:
    """Scalar loops, in the words of the definition: independent of both implementations."""
    codes = []
    for row in z:
        best, code = np.float32(np.inf), 0
        for j, entry in enumerate(codebook):
            d = np.float32(0)
            for a, b in zip(row, entry, strict=True):
                difference = a - b
                d = d + difference * difference
            if d < best:
                best, code = d, j
        codes.append(code)
    return np.array(codes, np.int64)


@pytest.mark.parametrize(("rows", "size", "dim"), [(3, 1, 4), (5, 7, 4), (4, 33, 32)])
def test_plain_is_the_definition(rows: int, size: int, dim: int) -> None:
    rng = np.random.default_rng(size)
    z = rng.standard_normal((rows, dim), np.float32)
    codebook = rng.integers(-2, 3, (size, dim)).astype(np.float32)
    z[: rows // 2] = np.round(z[: rows // 2])  # ties
    np.testing.assert_array_equal(nearest_code_plain(z, codebook), _by_definition(z, codebook))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("rows", "size", "dim"),
    [(1, 1, 4), (7, 2, 4), (9, 16384, 4), (33, 63, 16), (17, 65, 64), (40, 1024, 32), (6, 1024, 256), (3, 300, 512)],
)
def test_equal_to_plain(case: Case, rows: int, size: int, dim: int) -> None:
    z, codebook = case(np.random.default_rng(rows * size + dim), rows, size, dim)
    np.testing.assert_array_equal(nearest_code(z, codebook), nearest_code_plain(z, codebook))


def test_wide_and_large() -> None:
    z, codebook = code_plus_noise(np.random.default_rng(1), 8, 16384, 256)
    np.testing.assert_array_equal(nearest_code(z, codebook), nearest_code_plain(z, codebook))


def test_ties_go_to_the_lowest_index() -> None:
    entry = np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_array_equal(nearest_code(entry, np.repeat(entry, 50, axis=0)), [0])
    codebook = np.concatenate([np.full((7, 4), 9, np.float32), np.repeat(entry, 50, axis=0)])
    np.testing.assert_array_equal(nearest_code(entry + np.float32(0.5), codebook), [7])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_and_entries_that_are_not_finite(value: float) -> None:
    z, codebook = gaussian(np.random.default_rng(3), 6, 40, 8)
    z[0] = value
    z[1, 5] = value
    codebook[0] = value
    codebook[13, 2] = value
    codes = nearest_code(z, codebook)
    np.testing.assert_array_equal(codes[:2], [0, 0])
    np.testing.assert_array_equal(codes, nearest_code_plain(z, codebook))
    np.testing.assert_array_equal(nearest_code(z, np.full((3, 8), value, np.float32)), np.zeros(6))


def test_no_rows() -> None:
    assert nearest_code(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32)).shape == (0,)


def test_strided_input_is_read_as_it_is() -> None:
    z, codebook = gaussian(np.random.default_rng(4), 12, 30, 8)
    np.testing.assert_array_equal(
        nearest_code(np.asfortranarray(z), codebook[::-1]), nearest_code(z, codebook[::-1].copy())
    )


def test_the_comparison_notices_a_plain_float32_product() -> None:
    """A planted fault: distances by one float32 matrix product, as published, differ from the definition."""
    z, codebook = offset(np.random.default_rng(5), 64, 512, 64)
    published = (z * z).sum(1)[:, None] + (codebook * codebook).sum(1) - 2 * z @ codebook.T
    assert (published.argmin(axis=1) != nearest_code_plain(z, codebook)).any()


def test_the_comparison_notices_a_bound_that_is_too_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: without the search among candidates the exact minimum is returned, not the float32 one."""
    z, codebook = fresh_codebook(np.random.default_rng(6), 48, 8192, 64)
    expected = nearest_code_plain(z, codebook)
    np.testing.assert_array_equal(nearest_code(z, codebook), expected)

    def first(z: F32, codebook: F32, candidate: NDArray[np.bool_]) -> NDArray[np.int64]:
        exact = ((z.astype(np.float64)[:, None] - codebook.astype(np.float64)) ** 2).sum(2)
        return np.asarray(np.where(candidate, exact, np.inf).argmin(axis=1))

    monkeypatch.setattr("trt_vqgan.kernels.reference.nearest_code._settle", first)
    z, expected = z[:16], expected[:16]
    assert (nearest_code(z, codebook) != expected).any()


def test_memory_stays_bounded() -> None:
    """All entries equal, so that every pair is a candidate: the worst case."""
    z, codebook = np.ones((600, 16), np.float32), np.zeros((4096, 16), np.float32)
    tracemalloc.start()
    codes = nearest_code(z, codebook)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not codes.any()
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("z", "codebook"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)),
        (np.zeros(3, np.float32), np.zeros((4, 3), np.float32)),
        (np.zeros((2, 3), np.float32), np.zeros((0, 3), np.float32)),
        (np.zeros((2, 3), np.float64), np.zeros((4, 3), np.float32)),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(z: F32, codebook: F32) -> None:
    with pytest.raises(ShapeError, match="wanted"):
        nearest_code(z, codebook)
