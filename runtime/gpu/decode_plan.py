"""Everything that decode steps of one size need, kept in place so that they can be one graph."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trt_vqgan.errors import CudaError
from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.device.interface import Device, Graph
from trt_vqgan.runtime.gpu.activations import FLOAT, allocate_activations
from trt_vqgan.runtime.gpu.cache import DeviceCache
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.operations import Operations
from trt_vqgan.runtime.gpu.shared_prefix import PrefixCache, PrefixSize, Sharing
from trt_vqgan.runtime.gpu.state import Drawing, allocate_state
from trt_vqgan.spec import TransformerSpec

BUCKETS = (1, 2, 4, 8, 16, 32, 64)

KEPT_PLANS = 4
"""Sizes whose graphs and buffers are kept for the next call."""


def bucket_size(pictures: int) -> int:
    """Return the size that steps of ``pictures`` pictures run at: the next bucket, beyond them the next multiple."""
    for size in BUCKETS:
        if pictures <= size:
            return size
    return -(-pictures // BUCKETS[-1]) * BUCKETS[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSize:
    """What a graph is made for.

    Attributes
    ----------
    pictures : bucket of pictures.
    guided : whether each has a second row.
    capacity : positions of the cache.
    num_codes : codes of a picture.
    prefix : of the first positions that rows share; the cache then holds those behind them.
    """

    pictures: int
    guided: bool
    capacity: int
    num_codes: int
    prefix: PrefixSize | None = None

    @property
    def rows(self) -> int:
        """Rows of the transformer."""
        return 2 * self.pictures if self.guided else self.pictures

    @classmethod
    def of(cls, drawing: Drawing, sharing: Sharing | None = None) -> PlanSize:
        """Return the size that a drawing runs at."""
        prefix = None if sharing is None else PrefixSize.of(sharing)
        positions = drawing.positions - (0 if prefix is None else prefix.length)
        return cls(
            pictures=bucket_size(drawing.batch),
            guided=drawing.guided,
            capacity=bucket_length(max(positions, 1)),
            num_codes=drawing.codes.shape[1],
            prefix=prefix,
        )


class DecodePlan:
    """Cache, buffers, state and graph of decode steps of one size.

    The first step runs as it is, since some executors settle what they need in their first call of a size; it is then
    captured, and later ones are replays.

    Parameters
    ----------
    device, operations, executor : what it runs on.
    spec : the transformer's sizes.
    size : what it is made for.
    number : float16, or float32 where a model is checked exactly.
    """

    def __init__(
        self,
        device: Device,
        operations: Operations,
        executor: Executor,
        spec: TransformerSpec,
        *,
        size: PlanSize,
        number: np.dtype[Any],
    ) -> None:
        self.size = size
        self._device, self._operations, self._executor, self._spec = device, operations, executor, spec
        self.cache = DeviceCache(device, spec, batch=size.rows, capacity=size.capacity, number=number)
        self.state = allocate_state(device, batch=size.pictures, guided=size.guided, num_codes=size.num_codes)
        self.logits = device.allocate((size.rows, spec.vocab_size), FLOAT)
        self._work = allocate_activations(device, spec, batch=size.rows, tokens=1, number=number)
        self._input = self._work.x  # where each step finds its input, however often buffers were swapped
        self.prefix: PrefixCache | None = None
        shared = {}
        if size.prefix is not None:
            self.prefix = PrefixCache(device, spec, size=size.prefix, rows=size.rows, number=number)
            shared = {"prefix_length": size.prefix.length, "prefix_sets": size.prefix.sets(size.rows)}
        self._workspace = operations.attention_workspace(
            batch=size.rows, tokens=1, capacity=self.cache.capacity, **shared
        )
        self._graph: Graph | None = None

    def sample(self) -> None:
        """Draw a code of each picture from the logits, and make the next input."""
        x = self._input.reshape(self.size.rows, self._spec.hidden_size)
        self._operations.sample_codes(self.logits, self.state, x)

    def step(self) -> None:
        """Compute the next logits from the input, and draw."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._issue()
        if self._executor.capturable:
            self._graph = self._device.capture(self._issue)

    def _issue(self) -> None:
        work = self._work
        if work.x is not self._input:
            work.swap()
        self._executor.first(work)
        for layer in range(self._spec.num_layers):
            self._operations.cached_attention(
                work,
                self.cache.keys(layer),
                self.cache.values(layer),
                self.state.lengths,
                self._workspace,
                prefix=None if self.prefix is None else self.prefix.layer(layer),
            )
            if layer + 1 < self._spec.num_layers:
                self._executor.middle(layer + 1, work)
        logits = self.logits.reshape(self.size.rows, 1, self._spec.vocab_size)
        self._executor.last(work.x, work.attended, logits)
        self.sample()

    def free(self) -> None:
        """Give everything back."""
        if self._graph is not None:
            self._graph.free()
            self._graph = None
        self.cache.free()
        if self.prefix is not None:
            self.prefix.free()
        self.state.free()
        self.logits.memory.free()
        self._work.free()
        self._workspace.free()


class PlanPool:
    """Plans that wait for the next drawing of their size.

    Parameters
    ----------
    make : makes one.
    """

    def __init__(self, make: Callable[[PlanSize], DecodePlan]) -> None:
        self._make = make
        self._plans: dict[PlanSize, DecodePlan] = {}  # the one used last stands last

    @contextlib.contextmanager
    def lend(self, size: PlanSize) -> Iterator[DecodePlan]:
        """Lend a plan of a size: nobody else's meanwhile, kept afterwards."""
        plan = self._plans.pop(size, None) or self._new(size)
        try:
            yield plan
        except CudaError:
            plan.free()  # what a device that failed has left in it is anybody's guess
            raise
        except BaseException:
            self._keep(plan)
            raise
        self._keep(plan)

    def _new(self, size: PlanSize) -> DecodePlan:
        try:
            return self._make(size)
        except CudaError:
            if not self._plans:
                raise
        self.clear()  # memory may be short only because of what is kept
        return self._make(size)

    def _keep(self, plan: DecodePlan) -> None:
        displaced = self._plans.pop(plan.size, None)  # where a callback has drawn at the same size
        if displaced is not None:
            displaced.free()
        self._plans[plan.size] = plan
        while len(self._plans) > KEPT_PLANS:
            self._plans.pop(next(iter(self._plans))).free()

    def clear(self) -> None:
        """Free what is kept."""
        while self._plans:
            self._plans.popitem()[1].free()
