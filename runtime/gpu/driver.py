"""The driver: prefill, extension, single steps and the decode loop of one transformer on one device.

It issues a fixed sequence of operations on device arrays. What differs between backends is who computes the dense parts
(`executors`) and the operations between them (`operations`), so the processor's tests run what a GPU runs.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.device.arrays import Region
from trt_vqgan.runtime.device.interface import Device, upload_new
from trt_vqgan.runtime.gpu.activations import FLOAT, allocate_activations
from trt_vqgan.runtime.gpu.cache import DeviceCache
from trt_vqgan.runtime.gpu.decode_loop import DecodeLoop, OnCodes, OnSteps
from trt_vqgan.runtime.gpu.decode_plan import DecodePlan, PlanPool, PlanSize
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.forward_pass import ForwardPass
from trt_vqgan.runtime.gpu.operations import Operations
from trt_vqgan.runtime.gpu.shared_prefix import SHARE_FROM_BYTES, Sharing, find_sharing
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.runtime.sampler import Sampling, draw_codes
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
UInt64Array = npt.NDArray[np.uint64]


class DeviceEngine:
    """One transformer on one device. Also stands in for `trt_vqgan.runtime.transformer.TransformerEngine`.

    Safe to call from several threads: calls take turns.

    Parameters
    ----------
    spec : the transformer's sizes.
    device : where it runs; closed with the engine unless ``turns`` is given.
    operations, executor : what computes, on that device.
    number : float16, or float32 where a model is checked exactly.
    turns : of the device, where other parts of the model use it too.
    share_from : bytes that `find_sharing` asks for before pictures share the reading of equal prefixes.
    deterministic : a picture's logits have the same bits whatever pictures run beside it. Prefixes are computed a row
        at a time, and not shared; ``operations`` and ``executor`` must be made deterministic too.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        device: Device,
        *,
        operations: Operations,
        executor: Executor,
        number: npt.DTypeLike = np.float16,
        turns: DeviceTurns | None = None,
        share_from: int = SHARE_FROM_BYTES,
        deterministic: bool = False,
    ) -> None:
        self.spec = spec
        self.device = device
        self.number: np.dtype[Any] = np.dtype(number)
        self._operations, self._executor = operations, executor
        self._share_from, self._deterministic = share_from, deterministic
        self._forward = ForwardPass(spec, device, operations, executor, number=self.number, row_by_row=deterministic)
        self._plans = PlanPool(self._new_plan)
        self._turns, self._owns_device = turns or DeviceTurns(device), turns is None
        self._closed = False

    def describe(self) -> str:
        """Return what computes, and where, for people."""
        return f"{self._executor.describe()}, {self.device.describe()}"

    def close(self) -> None:
        """Give the device's memory back; a second call does nothing."""
        with self._turns.alone():
            if self._closed:
                return
            self._closed = True
            try:
                with self.device.active():
                    self._plans.clear()
                    self._executor.close()
                    self._operations.close()
            finally:
                if self._owns_device:
                    self._turns.close()

    def _new_plan(self, size: PlanSize) -> DecodePlan:
        return DecodePlan(self.device, self._operations, self._executor, self.spec, size=size, number=self.number)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns.turn():
            yield

    # --- the transformer ----------------------------------------------------------------------------------------------

    def new_cache(self, *, batch: int, capacity: int) -> DeviceCache:
        """Return an empty cache for ``batch`` rows of at most ``capacity`` positions."""
        with self._turn():
            return DeviceCache(self.device, self.spec, batch=batch, capacity=capacity, number=self.number)

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        """Return the bytes that `new_cache` allocates for it on the device."""
        return DeviceCache.bytes_needed(self.spec, batch=batch, capacity=capacity, number=self.number)

    def prefill(
        self,
        cache: DeviceCache,
        tokens: Int64Array,
        *,
        rows: Int64Array,
        block: int | None = None,
        num_unmasked: int | None = None,
    ) -> FloatArray:
        """Fill an empty cache with ``tokens`` int64 (B, T) and return logits float32 (B, R, V).

        Parameters
        ----------
        rows : int64 (R,), the positions that get logits, ascending.
        block : taken for the processor's engine, where it decides the last bits; here every token of a row is computed
            in the same way whatever stands beside it.
        num_unmasked : leading positions that see each other both ways; the model's own by default.
        """
        unmasked = self.spec.num_unmasked if num_unmasked is None else num_unmasked
        return self._append(cache, tokens, start=0, rows=rows, num_unmasked=unmasked)

    def extend(
        self, cache: DeviceCache, tokens: Int64Array, *, start: int, rows: Int64Array, block: int | None = None
    ) -> FloatArray:
        """Append positions ``start`` … of ``tokens``; return logits float32 (B, R, V).

        Parameters
        ----------
        cache : holds positions 0 … start-1 of each row; all that see both ways are among them.
        tokens : int64 (B, T), the whole sequences.
        rows : int64 (R,), the positions that get logits, ascending, none before ``start``.
        block : without effect here, as in `prefill`.
        """
        return self._append(cache, tokens[:, start:], start=start, rows=rows - start, num_unmasked=0)

    def runs(self, start: int, end: int, *, batch: int) -> list[tuple[int, int]]:
        """Return (first, last + 1) of the runs that compute positions ``start`` … ``end`` - 1: one."""
        return [(start, end)]

    def _append(
        self, cache: DeviceCache, tokens: Int64Array, *, start: int, rows: Int64Array, num_unmasked: int
    ) -> FloatArray:
        logits = np.empty((len(tokens), len(rows), self.spec.vocab_size), dtype=np.float32)
        with self._turn():
            for part, found in self._forward.run(cache, tokens, start=start, rows=rows, num_unmasked=num_unmasked):
                if len(rows):
                    logits[part] = self.device.download(found)
        return logits

    def stepper(self, cache: DeviceCache) -> DeviceStepper:
        """Return a `DeviceStepper` that appends one token a row to ``cache``."""
        return DeviceStepper(self, cache)

    def draw_codes(self, logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
        """Return one code int64 (B,) for each row of logits float32 (B, V), on the host."""
        return draw_codes(logits, sampling, random=random)

    # --- the decode loop ----------------------------------------------------------------------------------------------

    def draw(
        self,
        drawing: Drawing,
        *,
        on_steps: OnSteps | None = None,
        on_codes: OnCodes | None = None,
        show_after: Collection[int] = (),
    ) -> Int64Array:
        """Return the codes int64 (B, N) of a drawing, in the model's order.

        The device runs up to twice `decode_loop.STEPS_AHEAD` steps ahead of the host; nothing is waited for in a step.

        Parameters
        ----------
        on_steps : called now and then with the number of steps that are done: each draws a code a picture. May raise to
            stop.
        on_codes : called with steps and codes so far, int64 (B, N), after each of the numbers of steps in
            ``show_after``; may raise to stop.

        Raises
        ------
        ShapeError : the logits of a picture were not finite, or positions that see each other both ways are not all in
            the prefixes.
        CudaError : the device failed.
        """
        shortest = min(len(prefix) for prefix in drawing.prefixes)
        if drawing.steps > 1 and shortest < self.spec.num_unmasked:
            raise ShapeError(
                f"decode: found a prefix of {shortest} tokens, wanted at least the {self.spec.num_unmasked} that see "
                "each other both ways, as each new one would change what the others are"
            )
        if not drawing.steps:
            return drawing.codes.copy()
        sharing = self._sharing(drawing)
        with self._turn(), self._plans.lend(PlanSize.of(drawing, sharing)) as plan:
            drawing.upload(self.device, plan.state)
            if sharing is None:
                self._begin(plan, drawing)
            else:
                self._begin_shared(plan, drawing, sharing)
            loop = DecodeLoop(
                self.device, plan, drawing, on_steps=on_steps, on_codes=on_codes, show_after=frozenset(show_after)
            )
            return loop.run()

    @contextlib.contextmanager
    def sharing_from(self, share_from: int) -> Iterator[None]:
        """Let pictures share prefixes from another saving on: 1 is always where there is any, for checks and times."""
        before, self._share_from = self._share_from, share_from
        try:
            yield
        finally:
            self._share_from = before

    def _sharing(self, drawing: Drawing) -> Sharing | None:
        if drawing.steps == 1 or self._deterministic:
            return None  # nothing is read behind the prefill; or not in an order that neighbours don't decide
        position_bytes = 2 * self.spec.hidden_size * self.number.itemsize
        return find_sharing(drawing.prefixes, position_bytes=position_bytes, share_from=self._share_from)

    def _begin_shared(self, plan: DecodePlan, drawing: Drawing, sharing: Sharing) -> None:
        """Prefill each prefix once, where its rows will read it, and its last logits into those of its rows."""
        assert plan.prefix is not None
        places = self._places(plan, drawing)
        group = np.full(plan.size.rows, -1, np.int32)
        group[places] = sharing.group
        plan.prefix.upload(group)
        copies = [places[sharing.group == index].tolist() for index in range(len(sharing.tokens))]
        self._begin_rows(plan, plan.prefix.cache, sharing.tokens, copies, first=0)

    def _places(self, plan: DecodePlan, drawing: Drawing) -> Int64Array:
        """Return the plan's row of each row of a drawing: those without their condition begin in its second half."""
        rows = np.arange(len(drawing.prefixes))
        return np.where(rows < drawing.batch, rows, rows + plan.size.pictures - drawing.batch)

    def _begin(self, plan: DecodePlan, drawing: Drawing) -> None:
        """Prefill the rows' prefixes into the plan's cache, and their last logits into its logits.

        Equal prefixes are computed once, and copied.
        """
        all_places = self._places(plan, drawing)
        by_length: dict[int, list[int]] = collections.defaultdict(list)
        for i, prefix in enumerate(drawing.prefixes):
            by_length[len(prefix)].append(i)
        for length, members in by_length.items():
            tokens = np.stack([drawing.prefixes[i] for i in members])
            places = all_places[members]
            unique, which = np.unique(tokens, axis=0, return_inverse=True)
            if len(unique) == len(tokens) and (np.diff(places) == 1).all():
                self._begin_rows(plan, plan.cache, tokens, places[:, None].tolist(), first=int(places[0]))
                continue
            copies = [places[which.reshape(-1) == row].tolist() for row in range(len(unique))]
            shared = DeviceCache(self.device, self.spec, batch=len(unique), capacity=length, number=self.number)
            self._begin_rows(plan, shared, unique, copies, first=0)
            for row, targets in enumerate(copies):
                for target in targets:
                    plan.cache.copy_rows(shared, np.array([row]), length, first=target)
            shared.free()

    def _begin_rows(
        self, plan: DecodePlan, cache: DeviceCache, tokens: Int64Array, copies: list[list[int]], *, first: int
    ) -> None:
        """Prefill ``tokens`` into rows of a cache from ``first`` on; copy row i's last logits to ``copies[i]``."""
        step = self.spec.vocab_size * FLOAT.itemsize
        last = np.array([tokens.shape[1] - 1])
        for part, logits in self._forward.run(
            cache, tokens, start=0, rows=last, num_unmasked=self.spec.num_unmasked, first=first
        ):
            for i in range(part.start, part.stop):
                source = Region(array=logits, offset=(i - part.start) * step, pitch=step)
                for target in copies[i]:
                    self.device.copy(Region(array=plan.logits, offset=target * step, pitch=step), source, width=step)


class DeviceStepper:
    """Decode steps over one cache, driven from the host: tokens go in, logits come out."""

    def __init__(self, engine: DeviceEngine, cache: DeviceCache) -> None:
        self._engine, self._cache = engine, cache

    def step(self, tokens: Int64Array, lengths: Int64Array) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``lengths`` int64 (B,) and return logits float32 (B, V)."""
        engine, device = self._engine, self._engine.device
        with engine._turn():
            work = allocate_activations(device, engine.spec, batch=len(tokens), tokens=1, number=engine.number)
            places = upload_new(device, lengths.astype(np.int32))
            column = upload_new(device, tokens.astype(np.int32)[:, None])
            engine._operations.embed_tokens(column, places.reshape(len(lengths), 1), work.x)
            engine._forward.layers(work, self._cache, places, first=0, num_unmasked=0)
            logits = device.download(engine._forward.logits(work, np.array([0])))
        found: FloatArray = logits[:, 0]
        return found
