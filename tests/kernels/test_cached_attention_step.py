"""cached_attention_step: one query a row, on the CPU shim against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels.attention_case import AttentionCase, load_for, with_fault
from tests.kernels.shim.shim import KernelError, ShimLibrary, is_sanitized, load, run_sanitized
from tests.tolerances import ATTENTION_STEP_KERNEL
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.cached_attention import HEAD_SIZES, plan_attention

SOURCE = "cached_attention_step.cu"
CAPACITY = 200
EDGES = [0, 63, 64, 127, 128, CAPACITY - 1]
IDLE = [CAPACITY, -1]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    head_sizes = [40] if is_sanitized() else [40, 64]  # with an odd granule, and without
    return load_for(*head_sizes, sources=[SOURCE])


def _case(lengths: list[int], *, head_size: int = 40, chunk: int = 64, capacity: int = CAPACITY) -> AttentionCase:
    plan = plan_attention(batch=len(lengths), tokens=1, heads=2, head_size=head_size, capacity=capacity, chunk=chunk)
    return AttentionCase(plan, lengths, seed=head_size)


def test_every_head_size() -> None:
    library = load([SOURCE])
    for head_size in HEAD_SIZES:
        case = _case([*EDGES, *IDLE], head_size=head_size)
        case.run(library, seed=head_size)
        case.check(ATTENTION_STEP_KERNEL)


@pytest.mark.parametrize(("chunk", "capacity"), [(64, 64), (64, 1), (128, 200), (192, 200), (256, 200), (128, 384)])
def test_every_way_to_split(library: ShimLibrary, chunk: int, capacity: int) -> None:
    lengths = [length for length in (0, 1, 63, 64, 127, 128, 129, 191, 192) if length < capacity]
    case = _case([*lengths, capacity - 1, capacity], chunk=chunk, capacity=capacity)
    case.run(library, seed=1)
    case.check(ATTENTION_STEP_KERNEL)


def test_steps_follow_each_other(library: ShimLibrary) -> None:
    """The same workspace, past the edges of tiles and of the capacity: tickets must be set back."""
    case = _case([61, 125, CAPACITY - 2])
    for step in range(5):
        case.run(library, seed=step)
        case.check(ATTENTION_STEP_KERNEL)
        case.advance()


def test_the_same_bits_in_any_order_of_blocks(library: ShimLibrary) -> None:
    outputs = []
    for seed in range(4):
        case = _case([150, 199, 70])
        case.run(library, seed=seed)
        outputs.append(np.array(case.out))
    for other in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], other)


def test_extreme_scores(library: ShimLibrary) -> None:
    """Scores of 10^4: the largest must be subtracted before the exponential; the rest underflow."""
    case = _case([130, 5], head_size=64)
    case.qkv[:, :, 0] *= np.float16(100)
    case.keys[...] *= np.float16(100)
    case.run(library)
    case.check(ATTENTION_STEP_KERNEL)


FAULTS_OF_SMALL_HEADS = {
    "sums overwrite values that others still read": (
        "granules < 4 ? 32 : kThreads / granules;\n"
        '    static_assert(groups * head_size * 4 <= S::tile_bytes, "sums of the groups");',
        "kThreads / granules;",
    ),
}

FAULTS = {
    "position behind the last is read": ("min(kTile, stop - tile);", "min(kTile, stop - tile + 1);"),
    "last position is masked": ("if (scored >= count)", "if (scored >= count - 1)"),
    "new key is read from the cache": (
        "key_source = {key_cache + base, token + part, 0, first}",
        "key_source = {key_cache + base, token + part, 0, first + 1}",
    ),
    "value is not appended": ("thread < 2 * granules", "thread < granules"),
    "idle row appends": ("first < 0 || first >= capacity", "first < 0"),
    "ticket is not set back": ("if (*flag) *ticket = 0;", ""),
    "sums are not rescaled": ("sums[j] *= correction;", ""),
    "split merged with another's maximum": ("exp2f(__ldcg(slots + i * step + head_size) - m)", "1.0f"),
    "merged before all have come": ("before == active - 1", "before == active - 2"),
    "wait for keys is a group short": ("copy_async_wait<1>();  // the keys", "copy_async_wait<2>();"),
    "values overwritten while read": ("__syncthreads();  // everyone has read the values", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(tmp_path: Path, fault: str) -> None:
    faulty = with_fault(tmp_path, SOURCE, *FAULTS[fault], head_size=40)
    with pytest.raises((AssertionError, KernelError)):
        for seed, chunk in enumerate((64, 64, 128, 128)):
            case = _case([*EDGES, *IDLE], chunk=chunk)
            for _ in range(2):  # on one workspace
                case.run(faulty, seed=seed)
                case.check(ATTENTION_STEP_KERNEL)


@pytest.mark.parametrize("fault", FAULTS_OF_SMALL_HEADS)
def test_faults_of_small_heads_are_noticed(tmp_path: Path, fault: str) -> None:
    faulty = with_fault(tmp_path, SOURCE, *FAULTS_OF_SMALL_HEADS[fault], head_size=16)
    with pytest.raises((AssertionError, KernelError)):
        for seed in range(8):
            case = _case([*EDGES, *IDLE], head_size=16)
            case.run(faulty, seed=seed)
            case.check(ATTENTION_STEP_KERNEL)


def test_no_byte_out_of_bounds() -> None:
    run_sanitized(__file__, "-k", "every_way_to_split or follow")


def test_plans_that_no_kernel_can_run() -> None:
    with pytest.raises(ShapeError, match="found head size 36, wanted a multiple of 8 from 16 to 128"):
        plan_attention(batch=1, tokens=1, heads=1, head_size=36, capacity=64)
    with pytest.raises(ShapeError, match="found chunks of 100 positions"):
        plan_attention(batch=1, tokens=1, heads=1, head_size=64, capacity=640, chunk=100)
    with pytest.raises(ShapeError, match="wanted batch, tokens, heads and capacity to be at least 1"):
        plan_attention(batch=0, tokens=1, heads=1, head_size=64, capacity=640)


@pytest.mark.parametrize(
    ("rows", "chunk", "splits"), [(1, 64, 8), (4, 64, 8), (16, 128, 4), (32, 256, 2), (33, 512, 1)]
)
def test_fewer_rows_are_cut_into_more_blocks(rows: int, chunk: int, splits: int) -> None:
    plan = plan_attention(batch=rows, tokens=1, heads=16, head_size=64, capacity=500)
    assert (plan.chunk, plan.splits) == (chunk, splits)
