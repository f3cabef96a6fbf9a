"""cached_attention with a prefix that rows share, on the CPU shim against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels.attention_case import SMALL_HEADS, AttentionCase, load_for, load_small_heads, with_fault
from tests.kernels.shim.shim import KernelError, ShimLibrary, is_sanitized, run_sanitized
from tests.tolerances import ATTENTION_TOKENS_KERNEL
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.cached_attention import cached_attention, plan_attention, shared_rows

PREFIX, STEP, TOKENS = (f"cached_attention_{part}.cu" for part in ("prefix", "step", "tokens"))
CAPACITY = 100
GROUP = [0, 2, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]  # of 17, 1 and 2 rows
AHEAD = [0, 1, 2, 3, 63, 64, 70, 98, 99, 100, 65, 77, 55, 33, 1, 0, 0, -1, 10, 3]  # positions behind the prefix


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    if is_sanitized():  # compiles slowly, and the kernels for several tokens have such a test of their own
        return load_for(40, sources=[PREFIX, STEP])
    return load_for(40, 64, sources=[PREFIX, STEP, TOKENS])


def _case(
    tokens: int = 1, *, length: int = 70, head_size: int = 40, chunk: int = 64, prefix_chunk: int = 64, spare: int = 0
) -> AttentionCase:
    plan = plan_attention(
        batch=len(GROUP),
        tokens=tokens,
        heads=2,
        head_size=head_size,
        capacity=CAPACITY,
        num_unmasked=0 if tokens == 1 else length + 2,
        prefix_length=length,
        prefix_sets=4 + spare,
        chunk=chunk,
        prefix_chunk=prefix_chunk,
    )
    return AttentionCase(plan, [length + ahead for ahead in AHEAD], group=GROUP, seed=tokens)


@pytest.mark.parametrize(("chunk", "prefix_chunk"), [(64, 64), (128, 64), (64, 256)])
@pytest.mark.parametrize("length", [1, 63, 64, 130])
def test_one_token_a_row(library: ShimLibrary, length: int, chunk: int, prefix_chunk: int) -> None:
    case = _case(length=length, chunk=chunk, prefix_chunk=prefix_chunk)
    for step in range(2):
        case.run(library, seed=length + step)
        case.check(ATTENTION_TOKENS_KERNEL)
        case.advance()


@pytest.mark.parametrize("tokens", [3, 16, 17])
def test_several_tokens_a_row(library: ShimLibrary, tokens: int) -> None:
    case = _case(tokens)
    case.run(library, seed=tokens)
    case.check(ATTENTION_TOKENS_KERNEL)


def test_even_granules(library: ShimLibrary) -> None:
    case = _case(2, head_size=64)
    case.run(library, seed=1)
    case.check(ATTENTION_TOKENS_KERNEL)


@pytest.mark.parametrize("head_size", SMALL_HEADS)
def test_small_heads(head_size: int) -> None:
    for tokens in (1, 3):
        case = _case(tokens, head_size=head_size)
        case.run(load_small_heads(), seed=head_size)
        case.check(ATTENTION_TOKENS_KERNEL)


def test_sets_without_rows_do_nothing(library: ShimLibrary) -> None:
    case = _case(spare=3)
    case.run(library, seed=1)
    case.check(ATTENTION_TOKENS_KERNEL)


def test_the_same_bits_in_any_order_of_blocks(library: ShimLibrary) -> None:
    outputs = []
    for seed in range(3):
        case = _case()
        case.run(library, seed=seed)
        outputs.append(np.array(case.out))
    for other in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], other)


FAULTS = {
    "another group's prefix is read": (PREFIX, "static_cast<size_t>(set[0]) * heads", "static_cast<size_t>(0) * heads"),
    "the last shared position is masked": (PREFIX, "present ? stop : 0);", "present ? stop - 1 : 0);"),
    "rows behind the eighth are left out": (PREFIX, "const int index = i * 8 +", "const int index = 0 * i +"),
    "a split overwrites the prefix": (STEP, "(prefix_slots + split) * S::partial_floats", "split * S::partial_floats"),
    "the last split isn't merged": (STEP, "prefix_slots + active, thread", "prefix_slots + active - 1, thread"),
    "one split is taken for all": (STEP, "active == 1 && prefix_slots == 0", "active == 1"),
    "positions are counted from the prefix's beginning": (STEP, "lengths[row] - prefix_length", "lengths[row]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(tmp_path: Path, fault: str) -> None:
    source, right, wrong = FAULTS[fault]
    faulty = with_fault(tmp_path, source, right, wrong, head_size=40, beside=[STEP if source == PREFIX else PREFIX])
    with pytest.raises((AssertionError, KernelError)):
        for seed in range(2):
            case = _case()
            case.run(faulty, seed=seed)
            case.check(ATTENTION_TOKENS_KERNEL)


def test_no_byte_out_of_bounds() -> None:
    run_sanitized(__file__, "-k", "one_token_a_row or sets_without")


def test_rows_are_listed_by_group() -> None:
    members = shared_rows(np.array([*GROUP, -1], np.int32))
    assert members.shape == (4, 17)
    assert [(line[0], np.count_nonzero(line[1:] >= 0)) for line in members] == [(0, 16), (0, 1), (1, 1), (2, 2)]
    assert sorted(members[:, 1:][members[:, 1:] >= 0]) == list(range(len(GROUP)))
    padded = shared_rows(np.array(GROUP, np.int32), sets=6)
    np.testing.assert_array_equal(padded[:4], members)
    np.testing.assert_array_equal(padded[4:], -1)
    with pytest.raises(ShapeError, match="found 4 sets of rows that share one, wanted at most 3"):
        shared_rows(np.array(GROUP, np.int32), sets=3)


def test_prefix_and_plan_go_together() -> None:
    with pytest.raises(ShapeError, match="a prefix of 5 positions and 0 sets"):
        plan_attention(batch=1, tokens=1, heads=1, head_size=32, capacity=8, prefix_length=5)
    case = _case()
    with pytest.raises(ShapeError, match="a plan with a prefix of 70 positions and addresses None"):
        cached_attention(case.plan, qkv=0, key_cache=0, value_cache=0, lengths=0, out=0, partials=0, tickets=0)
