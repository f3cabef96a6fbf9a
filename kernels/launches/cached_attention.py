"""Launches of cached attention: how the work is split, what workspace that takes, and the kernels' arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

HEAD_SIZES = range(32, 129, 8)
"""What the kernels are compiled for."""

_TILE = 64  # positions staged at a time: chunks are multiples of it
_THREADS = 128


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """One shape of cached attention and how it is cut into blocks; fixed when a graph is captured.

    Attributes
    ----------
    batch, tokens, heads, head_size, capacity : B, T, H, D and S of the definition.
    chunk : positions of the cache that one block takes, a multiple of 64. The sums of a row are added chunk by chunk:
        equal bits on two shapes need equal chunks.

    Raises
    ------
    ShapeError
        For a head size without a kernel, a chunk that is no multiple of 64, or a size below 1.
    """

    batch: int
    tokens: int
    heads: int
    head_size: int
    capacity: int
    chunk: int

    def __post_init__(self) -> None:
        if self.head_size not in HEAD_SIZES:
            raise ShapeError(
                f"cached_attention: found head size {self.head_size}, wanted a multiple of 8 from {HEAD_SIZES[0]} to "
                f"{HEAD_SIZES[-1]}"
            )
        if min(self.batch, self.tokens, self.heads, self.capacity) < 1:
            raise ShapeError(f"cached_attention: found {self}, wanted every size to be at least 1")
        if self.chunk < _TILE or self.chunk % _TILE:
            raise ShapeError(f"cached_attention: found chunks of {self.chunk} positions, wanted a multiple of {_TILE}")

    @property
    def splits(self) -> int:
        """Blocks that share one row's cache when it is full."""
        return -(-self.capacity // self.chunk)

    @property
    def partial_floats(self) -> int:
        """float32 elements of workspace; its contents don't matter before and after."""
        return self.batch * self.tokens * self.heads * self.splits * (self.head_size + 2)

    @property
    def tickets(self) -> int:
        """int32 elements of workspace that are zero before the first launch; every launch leaves them so."""
        return self.batch * self.heads


def plan_attention(
    *, batch: int, tokens: int, heads: int, head_size: int, capacity: int, chunk: int | None = None
) -> AttentionPlan:
    """Return a plan with enough blocks to fill a GPU, or with chunks of ``chunk`` positions."""
    if chunk is None:
        chunk = _chunk(batch * heads, capacity)
    return AttentionPlan(batch=batch, tokens=tokens, heads=heads, head_size=head_size, capacity=capacity, chunk=chunk)


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
) -> tuple[Launch, ...]:
    """Return the launches, in order, that do what `kernels.reference.cached_attention` does.

    Parameters
    ----------
    qkv, key_cache, value_cache, out : addresses of float16 arrays, aligned to 16 bytes, shaped as in the definition.
    lengths : address of int32 (B,).
    partials, tickets : addresses of workspace as `AttentionPlan` counts it; one launch at a time may use it.
    """
    scale_log2 = np.float32(plan.head_size**-0.5 * np.log2(np.e))  # the kernels' exponentials have base 2
    step = Launch(
        kernel=f"cached_attention_step_{plan.head_size}",
        grid=(plan.splits, plan.heads, plan.batch),
        block=(_THREADS, 1, 1),
        shared_bytes=_staged_bytes(plan.head_size) + 4 * (plan.head_size + 80),
        arguments=(
            np.uint64(qkv),
            np.uint64(key_cache),
            np.uint64(value_cache),
            np.uint64(lengths),
            np.uint64(partials),
            np.uint64(tickets),
            np.uint64(out),
            np.int32(plan.capacity),
            np.int32(plan.chunk),
            np.int32(0),
            np.int32(0),
            scale_log2,
        ),
    )
    return (step,)


def _chunk(blocks: int, capacity: int) -> int:
    """Return how many positions a block should take when one block a row would make ``blocks`` of them."""
    whole = -(-capacity // _TILE) * _TILE
    for most, chunk in ((64, 64), (256, 128), (528, 256)):
        if blocks <= most:
            return min(chunk, whole)
    return whole


def _staged_bytes(head_size: int) -> int:
    """Return the shared memory of 64 keys and values: a position takes an odd number of 16-byte granules."""
    return 2 * _TILE * 16 * (head_size // 8 | 1)
