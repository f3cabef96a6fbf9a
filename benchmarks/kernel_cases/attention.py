"""One run of the attention kernels beside the definition on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.cached_attention import (
    AttentionPlan,
    PrefixAddresses,
    cached_attention,
    shared_rows,
)
from trt_vqgan.kernels.reference.cached_attention import SharedPrefix
from trt_vqgan.kernels.reference.cached_attention import cached_attention as definition

Array = NDArray[Any]


class AttentionCase:
    """Random arrays of a plan: caches are NaN from each row's length on, workspace and output NaN everywhere.

    `run` launches the kernels, then `check` holds all that they wrote to the definition. Rows may go on: `advance`
    draws the next tokens.

    Parameters
    ----------
    lengths : of each row, a shared prefix included.
    place : puts arrays where the kernels find them, as `KernelRunner.place`.
    group : whose prefix each row continues, if the plan has one.
    """

    def __init__(
        self,
        plan: AttentionPlan,
        lengths: list[int],
        *,
        place: Callable[[Array], Array],
        group: list[int] | None = None,
        seed: int = 0,
    ) -> None:
        self.plan = plan
        self._place = place
        self._rng = np.random.default_rng(seed)
        self.lengths = place(np.array(lengths, np.int32))
        shape = (plan.batch, plan.heads, plan.capacity, plan.head_size)
        self.keys, self.values = self._random(shape), self._random(shape)
        for row, length in enumerate(lengths):
            self.keys[row, :, max(length - plan.prefix_length, 0) :] = np.nan
            self.values[row, :, max(length - plan.prefix_length, 0) :] = np.nan
        self.prefix: SharedPrefix | None = None
        if group is not None:
            groups = np.array(group, np.int32)
            shape = (max(group) + 1, plan.heads, plan.prefix_length, plan.head_size)
            self.prefix = SharedPrefix(keys=self._random(shape), values=self._random(shape), group=groups)
            self.members = place(shared_rows(groups, sets=plan.prefix_sets))
        self.partials = place(np.full(plan.partial_floats, np.nan, np.float32))
        self.tickets = place(np.zeros(plan.tickets, np.int32))
        self._draw_tokens()

    def _random(self, shape: tuple[int, ...]) -> Array:
        return self._place(self._rng.standard_normal(shape).astype(np.float16))

    def _draw_tokens(self) -> None:
        plan = self.plan
        self.qkv = self._random((plan.batch, plan.tokens, 3, plan.heads, plan.head_size))
        empty = np.full((plan.batch, plan.tokens, plan.heads * plan.head_size), np.nan, np.float16)
        self.out = self._place(empty)

    def advance(self, by: int = 1) -> None:
        """Let every row be longer by ``by`` positions and draw new tokens."""
        self.lengths += np.int32(by)
        self._draw_tokens()

    def launches(self, address: Callable[[Array], np.uint64]) -> tuple[Launch, ...]:
        """Return the plan's launches on these arrays."""
        addresses = None
        if self.prefix is not None:
            addresses = PrefixAddresses(
                keys=int(address(self.prefix.keys)),
                values=int(address(self.prefix.values)),
                members=int(address(self.members)),
            )
        return cached_attention(
            self.plan,
            qkv=int(address(self.qkv)),
            key_cache=int(address(self.keys)),
            value_cache=int(address(self.values)),
            lengths=int(address(self.lengths)),
            out=int(address(self.out)),
            partials=int(address(self.partials)),
            tickets=int(address(self.tickets)),
            prefix=addresses,
        )

    def run(self, runner: KernelRunner, *, seed: int = 0) -> None:
        """Launch the kernels once, and keep what the definition makes of the same arrays."""
        keys, values, out = np.array(self.keys), np.array(self.values), np.empty(self.out.shape, np.float32)
        definition(
            np.array(self.qkv),
            keys,
            values,
            np.array(self.lengths),
            out,
            num_unmasked=self.plan.num_unmasked,
            prefix=self.prefix,
        )
        self._wanted = keys, values, out
        for launch in self.launches(runner.address):
            runner.launch(launch, seed=seed)

    def check(self, tolerance: float) -> float:
        """Return the largest error of the output beyond its rounding to half, at most ``tolerance``.

        What is in the caches must equal the definition's bits.
        """
        keys, values, out = self._wanted
        for found, wanted in ((self.keys, keys), (self.values, values)):
            np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16), "appended, the rest untouched")
        np.testing.assert_array_equal(self.tickets, 0, "every ticket is set back")
        error = np.abs(self.out.astype(np.float32) - out) - np.abs(out) * np.float32(2**-11)
        assert not np.isnan(error).any(), "the output holds NaN: unwritten, or read where nothing is"
        worst = float(error.max())
        assert worst <= tolerance, f"error {worst}, tolerance {tolerance}"
        return worst
