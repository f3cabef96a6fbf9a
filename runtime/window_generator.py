"""Draws the codes of grids larger than the training grid, with windows that share their work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import SpecError
from trt_vqgan.runtime.code_generator import FREE, StepCallback
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.guidance import Guidance, beside_conditions
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_plan import Rule, Task, check_shift, plan_windows
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Plan = Literal["exact", "plain"]

WindowCondition = Callable[[int, int], Int64Array]
"""Gives the condition tokens int64 (n, L) of the window whose first code is (row, column)."""


@dataclasses.dataclass
class WindowReport:
    """What a generation cost.

    Attributes
    ----------
    positions_computed : sequence positions through the transformer, for each picture.
    windows_recomputed : windows whose cache did not fit ``memory_bytes`` and was computed again.
    peak_cache_bytes : most bytes of caches alive at once.
    """

    positions_computed: int = 0
    windows_recomputed: int = 0
    peak_cache_bytes: int = 0


@dataclasses.dataclass
class _Window:
    """A window whose cache holds the first ``filled`` positions of its sequence."""

    cache: Any
    filled: int


def check_windows(spec: ModelSpec, *, shift: int = 1) -> None:
    """Raise where a model can't make pictures larger than its training size.

    Raises
    ------
    SpecError : no transformer, an order of its own, or one-pass prediction; the published rule has none of them.
    ShapeError : a shift that leaves codes outside their window.
    """
    if spec.transformer is None or spec.condition is None:
        raise SpecError("a picture larger than the training size needs a transformer")
    if spec.permutation is not None or spec.transformer.one_pass:
        what = "an order of its own" if spec.permutation is not None else "one-pass prediction"
        raise SpecError(f"this model has {what}; larger pictures need codes in raster order, one by one")
    check_shift(shift, side=spec.autoencoder.latent_size)


class WindowGenerator:
    """The sliding-window loop of one model. Every picture moves in step, so several pictures share each run.

    Windows are computed as matrices, whose bits are the same however a window is cut into runs: the bits of the plain
    plan, whatever is shared, batched or computed again.

    Parameters
    ----------
    spec : a model with a transformer, in raster order.
    engine : runs it.

    Raises
    ------
    SpecError : as `check_windows`.
    """

    def __init__(self, spec: ModelSpec, engine: Engine) -> None:
        check_windows(spec)
        assert spec.transformer is not None
        assert spec.condition is not None
        self.spec = spec
        self.transformer = spec.transformer
        self.engine = engine
        self.side = spec.autoencoder.latent_size
        self.condition_tokens = spec.condition.num_tokens
        self.rule: Rule = "margin" if spec.condition.kind == "boxes" else "centred"

    def generate(
        self,
        condition: WindowCondition,
        *,
        kept: Int64Array,
        sampling: Sampling,
        seed: int,
        pictures: Int64Array,
        plan: Plan = "exact",
        shift: int = 1,
        memory_bytes: int | None = None,
        guidance: Guidance | None = None,
        on_step: StepCallback | None = None,
        on_codes: Callable[[Int64Array], None] | None = None,
        codes_every: int = 1,
        report: WindowReport | None = None,
    ) -> Int64Array:
        """Return codes int64 (n, h, w).

        Parameters
        ----------
        condition : condition tokens of a window.
        kept : int64 (n, h, w): codes that stay, `FREE` where one is drawn.
        plan : "exact" shares and batches windows; "plain" computes every code's whole window by itself, in raster
            order. Both give the same codes.
        shift : codes between two windows; above 1 an approximation.
        memory_bytes : bound on the caches alive at once (one window is always computed); windows beyond it are
            computed again.
        guidance : each picture then has a second row, of the null condition, in every window.
        on_step : called with the codes finished in each picture, kept ones included; may raise to stop.
        on_codes : called after about every ``codes_every`` drawn codes with all codes so far, int64 (n, h, w).
        report : filled in.

        Raises
        ------
        ShapeError : a grid smaller than the window, or a wrong shift.
        """
        codes = kept.copy()
        free = np.asarray(codes == FREE)
        # pictures move in step: a code that is free in one of them is predicted, and then left alone, in the others
        some = np.asarray(free.any(axis=0))
        steps = plan_windows(some, side=self.side, rule=self.rule, shift=shift, wavefront=plan == "exact")
        report = report if report is not None else WindowReport()
        run = _Run(self, condition, codes, plan, memory_bytes, guidance, report)
        done = int((~some).sum())
        shown = done
        count, size = len(pictures), self.spec.autoencoder.codebook_size
        for step in steps:
            for tasks, logits in run.predict(step):
                places = np.array([grid_position(task.row, task.column) for task in tasks], dtype=np.int64)
                random = random64(seed, pictures=np.tile(pictures, len(tasks)), positions=np.repeat(places, count))
                drawn = self.engine.draw_codes(logits[:, :size], sampling, random=random)
                for k, task in enumerate(tasks):
                    rows = free[:, task.row, task.column]
                    codes[rows, task.row, task.column] = drawn[k * count : (k + 1) * count][rows]
            done += len(step)
            if on_step is not None:
                on_step(done)
            if on_codes is not None and done - shown >= codes_every and done < some.size:
                shown = done
                on_codes(codes.copy())
        return codes


class _Run:
    """The state of one generation: codes so far, and the windows whose caches are alive."""

    def __init__(
        self,
        owner: WindowGenerator,
        condition: WindowCondition,
        codes: Int64Array,
        plan: Plan,
        memory_bytes: int | None,
        guidance: Guidance | None,
        report: WindowReport,
    ) -> None:
        self._engine, self._spec, self._side = owner.engine, owner.transformer, owner.side
        self._condition_tokens = owner.condition_tokens
        self._condition, self._codes = condition, codes
        self._sharing = plan == "exact"
        self._memory_bytes = memory_bytes
        self._guidance = guidance
        self._batch = len(codes) if guidance is None else 2 * len(codes)
        self._report = report
        self._windows: dict[tuple[int, int], _Window] = {}
        self._live_bytes = 0

    def predict(self, step: list[Task]) -> Iterator[tuple[list[Task], FloatArray]]:
        """Return tasks with their logits float32 (tasks x n, V), task by task, picture by picture."""
        alone: dict[int, list[Task]] = {}
        for task in step:
            shared = self._sharing and (task.more or task.origin in self._windows)
            if shared and self._unmasked_fits(task):
                yield [task], self._guided(1, self._shared(task))
            else:
                alone.setdefault(task.prefix, []).append(task)
        for tasks in alone.values():
            for group in self._affordable(tasks):
                yield group, self._guided(len(group), self._whole(group))

    def _sequence(self, task: Task) -> Int64Array:
        """Return the tokens before the task's code, int64 (n, L + prefix); with guidance (2n, L + prefix)."""
        i, j = task.origin
        window = self._codes[:, i : i + self._side, j : j + self._side].reshape(len(self._codes), -1)
        conditions, prefix = self._condition(i, j), window[:, : task.prefix]
        if self._guidance is not None:
            conditions = self._guidance.conditions(conditions)
        return np.concatenate([conditions, beside_conditions(prefix, self._guidance)], axis=1)

    def _guided(self, tasks: int, logits: FloatArray) -> FloatArray:
        """Return the logits that codes are drawn from, float32 (tasks x n, V), of those of all rows."""
        if self._guidance is None:
            return logits
        combined = self._guidance.combined(logits.reshape(tasks, self._batch, -1))
        return combined.reshape(tasks * len(self._codes), -1)

    def _unmasked_fits(self, task: Task) -> bool:
        """Whether a cache of this window stays true as it grows: no position to come is seen by earlier ones."""
        return self._spec.num_unmasked <= self._condition_tokens + task.prefix

    def _shared(self, task: Task) -> FloatArray:
        sequence = self._sequence(task)
        length = sequence.shape[1]
        window = self._windows.pop(task.origin, None)
        if window is None:
            cache = self._new_cache()
            if cache is None:
                self._report.windows_recomputed += 1
                return self._whole([task])
            logits = self._fill(cache, sequence)
            window = _Window(cache, length)
        else:
            last = np.array([length - 1])
            logits = self._engine.extend(window.cache, sequence, start=window.filled, rows=last)[:, 0]
            runs = self._engine.runs(window.filled, length, batch=len(sequence))
            self._report.positions_computed += sum(end - first for first, end in runs)
            window.filled = length
        if task.more:
            self._windows[task.origin] = window
        else:
            self._live_bytes -= self._cache_bytes(window.cache)
        return logits

    def _new_cache(self) -> Any | None:
        """Return a cache for the whole of a window, or None where it doesn't fit the bound."""
        capacity = self._condition_tokens + self._side * self._side
        wanted = self._engine.cache_bytes(batch=self._batch, capacity=capacity)
        # twice: windows that are computed by themselves need room for a cache of their own meanwhile
        if self._memory_bytes is not None and self._live_bytes + 2 * wanted > self._memory_bytes:
            return None
        self._live_bytes += wanted
        self._report.peak_cache_bytes = max(self._report.peak_cache_bytes, self._live_bytes)
        return self._engine.new_cache(batch=self._batch, capacity=capacity)

    def _cache_bytes(self, cache: Any) -> int:
        return self._engine.cache_bytes(batch=cache.batch, capacity=cache.capacity)

    def _affordable(self, tasks: list[Task]) -> Iterator[list[Task]]:
        """Split tasks into groups whose short-lived caches fit the bound; one always runs."""
        size = len(tasks)
        if not self._sharing:
            size = 1
        elif self._memory_bytes is not None:
            length = self._condition_tokens + tasks[0].prefix
            each = self._engine.cache_bytes(batch=self._batch, capacity=length)
            size = max(1, min(size, (self._memory_bytes - self._live_bytes) // each))
        for start in range(0, len(tasks), size):
            yield tasks[start : start + size]

    def _whole(self, tasks: list[Task]) -> FloatArray:
        """Compute the windows of tasks that have equally long sequences, side by side."""
        sequence = np.concatenate([self._sequence(task) for task in tasks])
        cache = self._engine.new_cache(batch=len(sequence), capacity=sequence.shape[1])
        used = self._live_bytes + self._cache_bytes(cache)
        self._report.peak_cache_bytes = max(self._report.peak_cache_bytes, used)
        return self._fill(cache, sequence, count=len(tasks))

    def _fill(self, cache: Any, sequence: Int64Array, *, count: int = 1) -> FloatArray:
        """Compute whole sequences into an empty cache; return the logits float32 (B, V) of their last positions."""
        length = sequence.shape[1]
        self._report.positions_computed += count * length
        return self._engine.prefill(cache, sequence, rows=np.array([length - 1]))[:, 0]
