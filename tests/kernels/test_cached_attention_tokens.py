"""cached_attention_tokens: several queries a row and prefill, on the CPU shim against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels.attention_case import SMALL_HEADS, AttentionCase, load_for, load_small_heads, with_fault
from tests.kernels.shim.shim import KernelError, ShimLibrary, is_sanitized, load, run_sanitized
from tests.tolerances import ATTENTION_TOKENS_KERNEL
from trt_vqgan.kernels.launches.cached_attention import HEAD_SIZES, plan_attention

SOURCE = "cached_attention_tokens.cu"
CAPACITY = 200
LENGTHS = [0, 1, 63, 130, CAPACITY - 2, CAPACITY, -1]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    head_sizes = [40] if is_sanitized() else [40, 64]  # with an odd granule, and without
    return load_for(*head_sizes, sources=[SOURCE])


def _case(
    tokens: int,
    lengths: list[int] = LENGTHS,
    *,
    head_size: int = 40,
    heads: int = 2,
    num_unmasked: int = 0,
    chunk: int = 64,
    capacity: int = CAPACITY,
) -> AttentionCase:
    plan = plan_attention(
        batch=len(lengths),
        tokens=tokens,
        heads=heads,
        head_size=head_size,
        capacity=capacity,
        num_unmasked=num_unmasked,
        chunk=chunk,
    )
    return AttentionCase(plan, lengths, seed=tokens)


@pytest.mark.parametrize("head_size", [40, 64])
@pytest.mark.parametrize("tokens", [2, 3, 15, 16, 17, 64, 65])
def test_several_tokens_a_row(library: ShimLibrary, tokens: int, head_size: int) -> None:
    """Rows begin anywhere; some don't have room for all tokens, some for none."""
    for chunk in (64, 256):
        case = _case(tokens, head_size=head_size, chunk=chunk)
        case.run(library, seed=tokens)
        case.check(ATTENTION_TOKENS_KERNEL)


@pytest.mark.parametrize("head_size", SMALL_HEADS)
def test_small_heads(head_size: int) -> None:
    """Sums of the tiles take as much memory as keys and values, or more, where heads are small."""
    for tokens in (3, 70):
        case = _case(tokens, head_size=head_size, num_unmasked=4)
        for seed in range(2):
            case.run(load_small_heads(), seed=head_size + seed)
            case.check(ATTENTION_TOKENS_KERNEL)


@pytest.mark.parametrize("num_unmasked", [0, 1, 5, 16, 70, 130, CAPACITY + 9])
@pytest.mark.parametrize("tokens", [7, 135])
def test_leading_positions_see_each_other(library: ShimLibrary, tokens: int, num_unmasked: int) -> None:
    for chunk in (64, 128):
        case = _case(tokens, [0, 3, 66], num_unmasked=num_unmasked, chunk=chunk)
        case.run(library, seed=num_unmasked)
        case.check(ATTENTION_TOKENS_KERNEL)


def test_a_whole_prefill(library: ShimLibrary) -> None:
    case = _case(512, [0], heads=1, capacity=512, num_unmasked=256, chunk=512)
    case.run(library, seed=1)
    case.check(ATTENTION_TOKENS_KERNEL)


def test_windows_follow_each_other(library: ShimLibrary) -> None:
    """The same workspace, past the edges of tiles and of the capacity: tickets must be set back."""
    for tokens in (3, 16, 30):
        case = _case(tokens, [50, 110, CAPACITY - 2 * tokens - 1])
        for step in range(3):
            case.run(library, seed=step)
            case.check(ATTENTION_TOKENS_KERNEL)
            case.advance(tokens)


def test_the_same_bits_in_any_order_of_blocks(library: ShimLibrary) -> None:
    outputs = []
    for seed in range(4):
        case = _case(20, [150, 70])
        case.run(library, seed=seed)
        outputs.append(np.array(case.out))
    for other in outputs[1:]:
        np.testing.assert_array_equal(outputs[0], other)


def test_no_bank_conflicts(library: ShimLibrary) -> None:
    for head_size in (40, 64):
        case = _case(20, [150], head_size=head_size)
        case.run(library)
        assert library.bank_conflicts == 0


@pytest.mark.slow
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_every_head_size(head_size: int) -> None:
    for tokens in (3, 20):
        case = _case(tokens, head_size=head_size, num_unmasked=4)
        case.run(load([SOURCE]), seed=head_size)
        case.check(ATTENTION_TOKENS_KERNEL)


FAULTS = {
    "a token doesn't see itself": (
        "limit = max(position + 1, position <",
        "limit = max(position + (position == 0), position <",
    ),
    "leading positions are masked": ("unmasked = min(num_unmasked - prefix_length, end);", "unmasked = 0;"),
    "leading positions beyond the last token are seen": (
        "unmasked = min(num_unmasked - prefix_length, end);",
        "unmasked = num_unmasked - prefix_length;",
    ),
    "the odd granule's product is missing": ("tc::mma_m16n8k8(high, query[granules / 2], {{r[1], 0u}});", ""),
    "nothing seen yet": ("m_new == -FLOAT_INFINITY ? 0.0f : m_new", "m_new"),
    "a warp that saw nothing is merged": ("if (memory.l[i] != 0.0f) {", "{"),
    "key and value are not appended at a chunk's end": ("position >= stop) continue", "position >= stop - 1) continue"),
    "tiles of queries share a ticket": ("(row * heads + head) * tiles + tile", "(row * heads + head)"),
    "new key is read from the cache": (
        "key_source = {key_cache + base, token + part, 3 * part, first}",
        "key_source = {key_cache + base, token + part, 3 * part, first + 1}",
    ),
    "wait for values is a group short": ("copy_async_wait<1>();  // the values", "copy_async_wait<2>();"),
    "keys overwritten while read": ("__syncthreads();  // everyone has read the keys", ""),
    "tokens without room are left": ("* result_stride + i % head_size] = __float2half_rn(0.0f)", "* 0 + 0]"),
}


NEED_PREFILL = {"tiles of queries share a ticket", "nothing seen yet"}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(tmp_path: Path, fault: str) -> None:
    many = fault in NEED_PREFILL
    faulty = with_fault(tmp_path, SOURCE, *FAULTS[fault], head_size=40, queries=64 if many else 16)
    with pytest.raises((AssertionError, KernelError)):
        for seed, (chunk, num_unmasked) in enumerate([(64, 0), (64, 66), (128, 0), (64, 0), (128, 66)]):
            case = _case(70 if many else 5, num_unmasked=num_unmasked, chunk=chunk)
            for _ in range(2):  # on one workspace
                case.run(faulty, seed=seed)
                case.check(ATTENTION_TOKENS_KERNEL)


def test_no_byte_out_of_bounds() -> None:
    run_sanitized(__file__, "-k", "see_each_other or follow")
