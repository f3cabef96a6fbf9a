"""Launches of cached attention: how the work is split, what workspace that takes, and the kernels' arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

HEAD_SIZES = range(16, 129, 8)
"""What the kernels are compiled for."""

_TILE = 64  # positions staged at a time: chunks are multiples of it
_THREADS = 128
_MEMBERS = 16  # rows that share one reading of a prefix: the rows of a tensor-core product


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """One shape of cached attention and how it is cut into blocks; fixed when a graph is captured.

    Attributes
    ----------
    batch, tokens, heads, head_size, capacity : B, T, H, D and S of the definition.
    num_unmasked : as in the definition.
    prefix_length : P of the shared prefix; 0 for none.
    prefix_sets : sets of at most 16 rows that share a prefix, as `shared_rows` lists them; 0 without a prefix.
    chunk, prefix_chunk : positions of the cache, or of a prefix, that one block takes, a multiple of 64. The sums of a
        row are added chunk by chunk: equal bits on two shapes need equal chunks.

    Raises
    ------
    ShapeError
        For a head size without a kernel, a chunk that is no multiple of 64, a size below 1, or a prefix without sets.
    """

    batch: int
    tokens: int
    heads: int
    head_size: int
    capacity: int
    num_unmasked: int = 0
    prefix_length: int = 0
    prefix_sets: int = 0
    chunk: int
    prefix_chunk: int = _TILE

    def __post_init__(self) -> None:
        if self.head_size not in HEAD_SIZES:
            raise ShapeError(
                f"cached_attention: found head size {self.head_size}, wanted a multiple of 8 from {HEAD_SIZES[0]} to "
                f"{HEAD_SIZES[-1]}"
            )
        sizes = min(self.batch, self.tokens, self.heads, self.capacity)
        if sizes < 1 or min(self.num_unmasked, self.prefix_length) < 0:
            raise ShapeError(
                f"cached_attention: found {self}, wanted batch, tokens, heads and capacity to be at least 1 and "
                "nothing below 0"
            )
        if (self.prefix_length > 0) != (self.prefix_sets > 0):
            raise ShapeError(
                f"cached_attention: found a prefix of {self.prefix_length} positions and {self.prefix_sets} sets of "
                "rows that share one, wanted both or neither"
            )
        for chunk in (self.chunk, self.prefix_chunk):
            if chunk < _TILE or chunk % _TILE:
                raise ShapeError(f"cached_attention: found chunks of {chunk} positions, wanted a multiple of {_TILE}")

    @property
    def queries(self) -> int:
        """Tokens of a row that one block takes: 1, or 16 or 64 on tensor cores."""
        return _queries(self.tokens)

    @property
    def query_tiles(self) -> int:
        """Blocks that share the tokens of a row."""
        return -(-self.tokens // self.queries)

    @property
    def splits(self) -> int:
        """Blocks that share one row's cache when it is full."""
        return -(-self.capacity // self.chunk)

    @property
    def prefix_splits(self) -> int:
        """Blocks that share one prefix."""
        return -(-self.prefix_length // self.prefix_chunk)

    @property
    def partial_floats(self) -> int:
        """float32 elements of workspace; its contents don't matter before and after. 1 where none is needed."""
        slots = self.prefix_splits + self.splits
        return self.batch * self.tokens * self.heads * slots * (self.head_size + 2) if slots > 1 else 1

    @property
    def tickets(self) -> int:
        """int32 elements of workspace that are zero before the first launch; every launch leaves them so."""
        return self.batch * self.heads * self.query_tiles


@dataclass(frozen=True, kw_only=True)
class PrefixAddresses:
    """Where a shared prefix lies on the device.

    Attributes
    ----------
    keys, values : addresses of float16 (G, H, P, D), aligned to 16 bytes.
    members : address of int32 (sets, 17), from `shared_rows`.
    """

    keys: int
    values: int
    members: int


def plan_attention(
    *,
    batch: int,
    tokens: int,
    heads: int,
    head_size: int,
    capacity: int,
    num_unmasked: int = 0,
    prefix_length: int = 0,
    prefix_sets: int = 0,
    chunk: int | None = None,
    prefix_chunk: int | None = None,
) -> AttentionPlan:
    """Return a plan whose chunks are short enough for its blocks to fill a GPU, unless they are given."""
    if chunk is None:
        queries = _queries(tokens)
        chunk = _chunk(batch * heads * -(-tokens // queries), capacity, long_at=128 if queries == 64 else 528)
    if prefix_chunk is None:
        prefix_chunk = _chunk(prefix_sets * heads * tokens, max(prefix_length, 1), long_at=528)
    return AttentionPlan(
        batch=batch,
        tokens=tokens,
        heads=heads,
        head_size=head_size,
        capacity=capacity,
        num_unmasked=num_unmasked,
        prefix_length=prefix_length,
        prefix_sets=prefix_sets,
        chunk=chunk,
        prefix_chunk=prefix_chunk,
    )


def shared_rows(group: NDArray[np.int32], *, sets: int | None = None) -> NDArray[np.int32]:
    """Return who reads which prefix together, int32 (sets, 17): a group, then up to 16 of its rows, then -1.

    Parameters
    ----------
    group : int32 (B,), whose prefix each row continues; -1 for a row that idles.
    sets : how many to return, the rest without rows; by default as many as there are. B rows of G groups need at most
        ``min(B, (B + 15 G) // 16)``.

    Raises
    ------
    ShapeError
        If ``sets`` are too few.
    """
    found = []
    for each in np.unique(group[group >= 0]):
        rows = np.flatnonzero(group == each)
        for start in range(0, len(rows), _MEMBERS):
            found.append((each, rows[start : start + _MEMBERS]))
    if sets is not None and sets < len(found):
        raise ShapeError(f"cached_attention: found {len(found)} sets of rows that share one, wanted at most {sets}")
    table = np.full((len(found) if sets is None else sets, _MEMBERS + 1), -1, np.int32)
    for line, (each, rows) in zip(table, found, strict=False):
        line[0] = each
        line[1 : 1 + len(rows)] = rows
    return table


def cached_attention(
    plan: AttentionPlan,
    *,
    qkv: int,
    key_cache: int,
    value_cache: int,
    lengths: int,
    out: int,
    partials: int,
    tickets: int,
    prefix: PrefixAddresses | None = None,
) -> tuple[Launch, ...]:
    """Return the launches, in order, that do what `kernels.reference.cached_attention` does.

    Parameters
    ----------
    qkv, key_cache, value_cache, out : addresses of float16 arrays, aligned to 16 bytes, shaped as in the definition.
    lengths : address of int32 (B,).
    partials, tickets : addresses of workspace as `AttentionPlan` counts it; one call at a time may use it.
    prefix : where the shared prefix lies, if the plan has one.

    Raises
    ------
    ShapeError
        When only one of plan and arguments has a prefix.
    """
    if (prefix is not None) != (plan.prefix_length > 0):
        raise ShapeError(
            f"cached_attention: found a plan with a prefix of {plan.prefix_length} positions and addresses {prefix}, "
            "wanted both or neither"
        )
    scale_log2 = np.float32(plan.head_size**-0.5 * np.log2(np.e))  # the kernels' exponentials have base 2
    staged = 2 * _TILE * 16 * (plan.head_size // 8 | 1)  # a position takes an odd number of 16-byte granules
    block = (_THREADS, 1, 1)
    pointers = tuple(np.uint64(p) for p in (qkv, key_cache, value_cache, lengths, partials, tickets, out))
    launches = []
    if prefix is not None:
        launches.append(
            Launch(
                kernel=f"cached_attention_prefix_{plan.head_size}",
                grid=(plan.prefix_splits * plan.tokens, plan.heads, plan.prefix_sets),
                block=block,
                shared_bytes=staged + 4 * 193,
                arguments=(
                    np.uint64(qkv),
                    np.uint64(prefix.keys),
                    np.uint64(prefix.values),
                    np.uint64(prefix.members),
                    np.uint64(lengths),
                    np.uint64(partials),
                    np.int32(plan.tokens),
                    np.int32(plan.capacity),
                    np.int32(plan.prefix_chunk),
                    np.int32(plan.prefix_splits),
                    np.int32(plan.prefix_splits + plan.splits),
                    np.int32(plan.prefix_length),
                    scale_log2,
                ),
            )
        )
    if plan.tokens == 1:
        launches.append(
            Launch(
                kernel=f"cached_attention_step_{plan.head_size}",
                grid=(plan.splits, plan.heads, plan.batch),
                block=block,
                shared_bytes=staged + 4 * (plan.head_size + 80),
                arguments=(
                    *pointers,
                    np.int32(plan.capacity),
                    np.int32(plan.chunk),
                    np.int32(plan.prefix_length),
                    np.int32(plan.prefix_splits),
                    scale_log2,
                ),
            )
        )
    else:
        launches.append(
            Launch(
                kernel=f"cached_attention_tokens_{plan.queries}_{plan.head_size}",
                grid=(plan.splits * plan.query_tiles, plan.heads, plan.batch),
                block=block,
                shared_bytes=staged + 4 * 193,
                arguments=(
                    *pointers,
                    np.int32(plan.tokens),
                    np.int32(plan.capacity),
                    np.int32(plan.chunk),
                    np.int32(plan.splits),
                    np.int32(plan.num_unmasked),
                    np.int32(plan.prefix_length),
                    np.int32(plan.prefix_splits),
                    scale_log2,
                ),
            )
        )
    return tuple(launches)


def _queries(tokens: int) -> int:
    return 1 if tokens == 1 else 16 if tokens <= 16 else 64


def _chunk(blocks: int, capacity: int, *, long_at: int) -> int:
    """Return how many positions a block should take when one block a row would make ``blocks`` of them.

    From ``long_at`` blocks on there are enough (132 multiprocessors hold four each; one is enough in prefill, where
    each has much to compute and partial results of many queries would cost more than idle multiprocessors).
    """
    whole = -(-capacity // _TILE) * _TILE
    if blocks >= long_at:
        return whole
    return min(64 if blocks <= 64 else 128 if blocks <= 256 else 256, whole)
