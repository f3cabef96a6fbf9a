"""gather_codes on the CPU shim against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.kernels.shim.shim import address, device_array, load, load_with_fault, run_sanitized
from trt_vqgan.benchmarks.kernel_cases.equal import check_gather
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.gather_codes import gather_codes as launch_of
from trt_vqgan.kernels.reference.gather_codes import gather_codes

SOURCE = "gather_codes.cu"


@pytest.mark.parametrize(("rows", "size", "dim"), [(1, 1, 4), (37, 9, 3), (300, 64, 256), (5, 16384, 8)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equal_to_the_definition(rows: int, size: int, dim: int, dtype: DTypeLike) -> None:
    check_gather(load([SOURCE]), rows, size, dim, dtype)


@pytest.mark.parametrize("dim", [3, 8])
def test_codes_outside_make_nan(dim: int) -> None:
    codebook = device_array(np.ones((4, dim), np.float32))
    codes, out = device_array(np.array([-1, 3, 4], np.int32)), device_array(np.zeros((3, dim), np.float32))
    launch = launch_of(
        codes=int(address(codes)),
        codebook=int(address(codebook)),
        out=int(address(out)),
        rows=3,
        size=4,
        entry_bytes=4 * dim,
    )
    load([SOURCE]).launch(launch)
    np.testing.assert_array_equal(out, gather_codes(codes, codebook))
    np.testing.assert_array_equal(np.isnan(out).all(axis=1), [True, False, True])


def test_a_wrong_row_shows() -> None:
    """A planted fault: entries are read one apart."""
    library = load_with_fault(SOURCE, "units + index % units]", "units + index % units + (units > 1)]")
    codebook = device_array(np.arange(40, dtype=np.float32).reshape(5, 8))
    codes, out = device_array(np.array([2, 0], np.int32)), device_array(np.zeros((2, 8), np.float32))
    launch = launch_of(
        codes=int(address(codes)),
        codebook=int(address(codebook)),
        out=int(address(out)),
        rows=2,
        size=5,
        entry_bytes=32,
    )
    library.launch(launch)
    assert not np.array_equal(out, gather_codes(codes, codebook))


def test_equal_and_outside_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "definition or outside_make")


@pytest.mark.parametrize(("rows", "size", "entry_bytes"), [(0, 1, 4), (1, 0, 4), (1, 1, 0), (1, 1, 5)])
def test_sizes_out_of_range_are_refused(rows: int, size: int, entry_bytes: int) -> None:
    with pytest.raises(ShapeError, match="gather_codes: found"):
        launch_of(codes=0, codebook=0, out=0, rows=rows, size=size, entry_bytes=entry_bytes)
