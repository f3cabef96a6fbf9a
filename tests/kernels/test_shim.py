"""The CPU shim that runs CUDA sources: each of its detectors finds what it is there for."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.kernels.shim.shim import (
    HERE,
    KernelError,
    ShimLibrary,
    address,
    device_array,
    is_sanitized,
    load,
    run_sanitized,
)
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

SOURCE = HERE / "faults.cu"


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load([SOURCE])


def _launch(kernel: str, *arguments: np.generic, threads: int = 32, blocks: int = 1, shared_bytes: int = 0) -> Launch:
    return Launch(
        kernel=kernel, grid=(blocks, 1, 1), block=(threads, 1, 1), shared_bytes=shared_bytes, arguments=arguments
    )


def _line(text: str, nth: int = 0) -> int:
    lines = [i for i, line in enumerate(SOURCE.read_text().splitlines(), 1) if text in line]
    return lines[nth]


def _row_sums(rows: int) -> tuple[np.ndarray, np.ndarray, Launch]:
    x = device_array(np.random.default_rng(rows).integers(-9, 9, (rows, 64)).astype(np.float32))
    sums = device_array(np.full(rows, np.nan, np.float32))
    launch = _launch("row_sums", address(x), address(sums), np.int32(rows), threads=64, blocks=rows, shared_bytes=8)
    return x, sums, launch


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_right_kernel_runs(library: ShimLibrary, seed: int) -> None:
    x, sums, launch = _row_sums(9)
    library.launch(launch, seed=seed)
    np.testing.assert_array_equal(sums, x.sum(axis=1))


def test_a_missing_barrier_shows() -> None:
    """In order, thread 0 reads what its neighbours haven't written: poison."""
    library = load([SOURCE], defines=["MISSING_BARRIER"])
    wrong = 0
    for seed in range(4):
        x, sums, launch = _row_sums(9)
        library.launch(launch, seed=seed)
        wrong += not np.array_equal(sums, x.sum(axis=1))
    assert wrong


@pytest.mark.parametrize(
    ("kernel", "threads", "message", "line"),
    [
        ("divergent_barrier", 64, "divergent __syncthreads", _line("if (threadIdx.x < 48) __syncthreads")),
        ("two_barriers", 64, "divergent __syncthreads", _line("        __syncthreads();")),
        ("divergent_warp", 32, "divergent __syncwarp", _line("if (threadIdx.x < 16) __syncwarp")),
        ("exited_lanes", 32, "mask names lane 16, which has exited", _line("__syncwarp();  // the others")),
        ("shuffle_from_outside", 32, "reads lane 20, which is not in the mask", _line("__shfl_sync(0xffffu, 1, 20)")),
        ("mask_of_others", 32, "the lane is not in its own mask", _line("__any_sync(0xffu, 1)")),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_divergence_is_reported_with_its_line(
    library: ShimLibrary, kernel: str, threads: int, message: str, line: int, seed: int
) -> None:
    out = device_array(np.zeros(threads, np.int32))
    with pytest.raises(KernelError, match=re.escape(message)) as raised:
        library.launch(_launch(kernel, address(out), threads=threads), seed=seed)
    assert f"{SOURCE}:{line}: thread" in str(raised.value)


def _copy(library: ShimLibrary, offset: int = 0, shared_bytes: int = 512) -> bool:
    rows = device_array(np.random.default_rng(0).integers(0, 255, (32, 16)).astype(np.uint8))
    out = device_array(np.zeros_like(rows))
    library.launch(
        _launch("copy_rows", address(rows), address(out), np.int32(offset), shared_bytes=shared_bytes), seed=1
    )
    return bool((rows == out).all())


def test_asynchronous_copies_arrive_when_waited_for(library: ShimLibrary) -> None:
    assert _copy(library)


def test_a_wait_that_is_one_group_short_shows() -> None:
    assert not _copy(load([SOURCE], defines=["WAIT_SHORT"]))


def test_copies_that_nothing_waited_for_are_reported() -> None:
    with pytest.raises(KernelError, match=r"faults\.cu:\d+: .* 1 asynchronous copies that nothing waited for"):
        _copy(load([SOURCE], defines=["NO_WAIT"]))


def test_misaligned_and_stray_copies_are_reported(library: ShimLibrary) -> None:
    line = _line("tc::copy_async_16(mine")
    with pytest.raises(KernelError, match=rf"faults\.cu:{line}: .*cp\.async: an address is not a multiple of 16"):
        _copy(library, offset=8, shared_bytes=528)
    with pytest.raises(KernelError, match=rf"faults\.cu:{line}: .*outside of the block's shared memory"):
        _copy(library, shared_bytes=496)


def _load_rows(library: ShimLibrary, stride: int, offset: int = 0) -> np.ndarray:
    out = device_array(np.zeros(32, np.uint32))
    library.launch(_launch("load_rows", address(out), np.int32(stride), np.int32(offset), shared_bytes=512))
    return out


def test_matrix_loads_count_bank_conflicts(library: ShimLibrary) -> None:
    np.testing.assert_array_equal(_load_rows(library, 16), np.arange(32) // 4 * 0x01010101)
    assert library.bank_conflicts == 0
    np.testing.assert_array_equal(_load_rows(library, 32), np.arange(32) // 4 * 2 * 0x01010101)
    assert library.bank_conflicts == 4  # each of four matrices takes two passes


def test_misaligned_and_stray_matrix_loads_are_reported(library: ShimLibrary) -> None:
    with pytest.raises(KernelError, match=r"faults\.cu:\d+: .*ldmatrix: the address is not a multiple of 16"):
        _load_rows(library, 16, offset=2)
    with pytest.raises(KernelError, match=r"faults\.cu:\d+: .*ldmatrix: the address lies outside"):
        _load_rows(library, 128)


@pytest.mark.parametrize("k", [8, 16])
def test_products_of_fragments(library: ShimLibrary, k: int) -> None:
    rng = np.random.default_rng(k)
    a = device_array(rng.integers(-8, 9, (16, k)).astype(np.float16))
    b = device_array(rng.integers(-8, 9, (8, k)).astype(np.float16))
    d = device_array(np.full((16, 8), np.nan, np.float32))
    library.launch(_launch(f"product_{k}", address(a), address(b), address(d), shared_bytes=24 * k * 2))
    np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32).T)


def test_transposed_loads(library: ShimLibrary) -> None:
    values = device_array(np.arange(64, dtype=np.float16).reshape(8, 8))
    out = device_array(np.zeros((8, 8), np.float16))
    library.launch(_launch("transpose_8", address(values), address(out), shared_bytes=128))
    np.testing.assert_array_equal(out, values.T)


def test_blocks_come_in_any_order() -> None:
    """A kernel that trusts the last block to be last is right in order and wrong out of it."""

    def total(library: ShimLibrary, seed: int) -> bool:
        values = device_array(np.arange(1, 9, dtype=np.int32))
        slots, ticket, out = (device_array(np.zeros(n, np.int32)) for n in (8, 1, 1))
        launch = _launch("last_block", *(address(array) for array in (values, slots, ticket, out)), blocks=8)
        library.launch(launch, seed=seed)
        return int(out[0]) == 36

    right, wrong = load([SOURCE]), load([SOURCE], defines=["NO_TICKET"])
    assert all(total(right, seed) for seed in range(6))
    assert total(wrong, 0)
    assert not all(total(wrong, seed) for seed in range(1, 6))


def test_numbers_arrive_as_they_were_given(library: ShimLibrary) -> None:
    out = device_array(np.zeros(4))
    arguments = np.int32(-3), np.uint32(2**32 - 1), np.float32(0.5), np.uint64(2**40)
    library.launch(_launch("types", *arguments, address(out)))
    np.testing.assert_array_equal(out, [-3, 2**32 - 1, 0.5, 2**40])


@pytest.mark.parametrize(
    "arguments",
    [(), (np.int32(1),), (np.int64(1), np.uint32(1), np.float32(1), np.uint64(1), np.uint64(0))],
)
def test_wrong_arguments_are_refused(library: ShimLibrary, arguments: tuple[np.generic, ...]) -> None:
    with pytest.raises(KernelError, match="its parameters"):
        library.launch(_launch("types", *arguments))


def test_unknown_kernels_and_extents_are_refused(library: ShimLibrary) -> None:
    with pytest.raises(KernelError, match="no such kernel; there are copy_rows"):
        library.launch(_launch("row_sum"))
    out = device_array(np.zeros(64, np.int32))
    with pytest.raises(KernelError, match="64 threads, its launch bounds allow 32"):
        library.launch(_launch("mask_of_others", address(out), threads=64))
    with pytest.raises(KernelError, match="wanted a multiple of 32"):
        library.launch(_launch("mask_of_others", address(out), threads=16))
    with pytest.raises(KernelError, match="232449 bytes of dynamic shared memory"):
        library.launch(_launch("mask_of_others", address(out), shared_bytes=232449))


@pytest.mark.parametrize(
    "change",
    [
        lambda: _launch("types", threads=0),
        lambda: _launch("types", threads=2048),
        lambda: _launch("types", blocks=0),
        lambda: _launch("types", shared_bytes=-1),
        lambda: _launch("types", 3),  # type: ignore[arg-type]
    ],
)
def test_launches_that_no_device_takes_are_refused(change: Callable[[], Launch]) -> None:
    with pytest.raises(ShapeError, match="launch of types"):
        change()


def test_a_wild_pointer_is_an_error_of_the_launch(library: ShimLibrary) -> None:
    if is_sanitized():
        pytest.skip("the sanitizer has its own report")
    out = device_array(np.zeros(32, np.float32))
    with pytest.raises(KernelError, match="segmentation fault"):
        library.launch(_launch("read_at", np.uint64(64), address(out), np.int32(0)))
    x, sums, launch = _row_sums(3)
    library.launch(launch)  # and the next launch works
    np.testing.assert_array_equal(sums, x.sum(axis=1))


# The next three fail under the sanitizer only, in the child process that the last test of this file starts.


def _planted(kernel: str, *arguments: np.generic, shared_bytes: int = 0) -> None:
    if not is_sanitized():
        pytest.skip("meant to fail, in the process that run_sanitized starts")
    load([SOURCE]).launch(_launch(kernel, *arguments, shared_bytes=shared_bytes))


def test_planted_read_behind_an_array() -> None:
    x, out = device_array(np.zeros(32, np.float32)), device_array(np.zeros(32, np.float32))
    _planted("read_at", address(x), address(out), np.int32(1))


def test_planted_write_behind_shared_memory() -> None:
    out = device_array(np.zeros(32, np.float32))
    _planted("write_shared_at", address(out), np.int32(1), shared_bytes=128)


def test_planted_misaligned_vector() -> None:
    x, out = device_array(np.zeros(32, np.float32)), device_array(np.zeros((32, 4), np.float32))
    _planted("read_vector_at", address(x), address(out), np.int32(2))


@pytest.mark.parametrize(
    ("planted", "report"),
    [
        ("read_behind_an_array", r"heap-buffer-overflow[\s\S]*read_at [\s\S]*faults\.cu"),
        ("write_behind_shared_memory", r"heap-buffer-overflow[\s\S]*write_shared_at [\s\S]*faults\.cu"),
        ("misaligned_vector", r"faults\.cu:\d+:\d+: runtime error: .*misaligned"),
    ],
)
def test_the_sanitizer_finds_accesses_outside(planted: str, report: str) -> None:
    with pytest.raises(AssertionError, match=report):
        run_sanitized(__file__, "-k", f"planted_{planted}")


def test_right_kernels_pass_under_the_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "right_kernel_runs or divergence or products or waited_for")
