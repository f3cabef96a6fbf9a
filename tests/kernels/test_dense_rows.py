"""The dense parts of a decode step of many rows, run by the kernels on the processor, against their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels.shim.shim import CSRC, KernelError, ShimLibrary, load, run_sanitized
from tests.tolerances import DENSE_STEP_RELATIVE, GELU_ABSOLUTE
from trt_vqgan.benchmarks.kernel_cases.dense_rows import DENSE_KINDS, DenseRowsCase
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.dense_rows import DenseKind, plan_dense_rows

SOURCE = "dense_rows.cu"

# N, K, rows, multiprocessors: whole tiles and parts, one chunk of K and many, one split and several, each size of rows.
CASES = [
    (64, 128, 16, 1),
    (16, 8, 9, 1),
    (40, 104, 12, 1),
    (72, 136, 17, 1),
    (100, 520, 33, 132),
    (64, 1032, 64, 132),
    (130, 640, 64, 6),
    (17, 1024, 25, 1),
]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load([SOURCE])


def check(library: ShimLibrary, sizes: tuple[int, int, int, int], kind: DenseKind, *, seed: int = 0) -> None:
    DenseRowsCase(*sizes).check(library, kind, relative=DENSE_STEP_RELATIVE, absolute=GELU_ABSOLUTE, seed=seed)


@pytest.mark.parametrize("kind", DENSE_KINDS)
@pytest.mark.parametrize("sizes", CASES)
def test_kernel_is_the_definition(library: ShimLibrary, sizes: tuple[int, int, int, int], kind: DenseKind) -> None:
    check(library, sizes, kind, seed=sizes[2])
    assert library.bank_conflicts == 0


def test_cases_have_one_split_and_several_and_all_sizes() -> None:
    plans = [DenseRowsCase(*sizes).plan for sizes in CASES]
    assert {plan.splits for plan in plans} >= {1, 2, 3}
    assert {plan.size for plan in plans} == {16, 32, 64}


def test_the_order_of_blocks_changes_no_bit(library: ShimLibrary) -> None:
    case = DenseRowsCase(130, 1032, 40, 132)
    assert case.plan.splits > 2
    first = case.found(library, "logits")
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(case.found(library, "logits", seed=seed), first)


@pytest.mark.parametrize("hidden", [64, 104, 256, 1024, 1536])
@pytest.mark.parametrize("rows", [9, 17, 64])
def test_plans_cover_a_matrix(hidden: int, rows: int) -> None:
    for outputs, inputs in ((3 * hidden, hidden), (hidden, 4 * hidden), (16384, hidden)):
        plan = plan_dense_rows(outputs=outputs, inputs=inputs, rows=rows, multiprocessors=132)
        chunks = -(-inputs // 128)
        assert (plan.splits - 1) * plan.chunks_of_split < chunks <= plan.splits * plan.chunks_of_split
        assert plan.splits == 1 or plan.tiles < 132


@pytest.mark.parametrize("bad", [{"rows": 0}, {"rows": 65}, {"inputs": 12}, {"inputs": 0}, {"outputs": 0}])
def test_sizes_out_of_range_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ShapeError, match="dense_rows"):
        plan_dense_rows(**({"outputs": 16, "inputs": 32, "rows": 9, "multiprocessors": 132} | bad))


FAULTS = {
    "both products of the same k": (
        "(c[t], odd, {{x.z, x.w}});",
        "(c[t], odd, {{x.x, x.y}});",
    ),
    "the second group is left out": ("c[t].r[i] + *to;", "c[t].r[i];"),
    "rows of the tile exchanged": ("(i / 2) * 8;", "(1 - i / 2) * 8;"),
    "a chunk's weights are the next's": ("(chunk + 1) * kBlocks + first + i;", "(chunk + 2) * kBlocks + first + i;"),
    "wait is a group short": ("tc::copy_async_wait<1>();", "tc::copy_async_wait<2>();"),
    "a chunk is overwritten while read": ("__syncthreads();  // everyone has read the chunk", ""),
    "what is beyond K isn't zero": ("row < product.rows && k < product.inputs", "row < product.rows"),
    "a ticket isn't set back": ("if (*is_last) product.tickets[blockIdx.x] = 0;", ""),
    "slots are merged too early": ("== splits - 1;", "== splits - 2;"),
    "a neighbour's bias": ("sum += product.bias[n];", "sum += product.bias[n ? n - 1 : 0];"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(tmp_path: Path, fault: str) -> None:
    """Of all kernels, only one is compiled."""
    right, wrong = FAULTS[fault]
    text, macros = (CSRC / SOURCE).read_text().split("#define DENSE_ROWS_OF(most_rows)")
    assert macros.count("DENSE_ROWS_OF") == 3
    assert text.count(right) == 1, right
    path = tmp_path / SOURCE
    path.write_text(text.replace(right, wrong) + "DENSE_ROWS(logits, 16, float, sum)\n")
    faulty = load([path])
    with pytest.raises((AssertionError, KernelError)):
        for seed in range(3):
            for sizes in ((40, 104, 12, 1), (72, 264, 16, 1), (100, 1032, 10, 132)):
                check(faulty, sizes, "logits", seed=seed)


def test_no_byte_out_of_bounds() -> None:
    run_sanitized(__file__, "-k", "is_the_definition and (linear or residual)")
