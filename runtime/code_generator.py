"""Draws the codes of a batch of pictures, one position at a time, with cached attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.guidance import Guidance, beside_conditions
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

FREE = -1
"""Marks a code that is to be drawn, among codes that are kept."""

StepCallback = Callable[[int], None]
CodesCallback = Callable[[Int64Array], None]


class CodeGenerator:
    """The generation loop of one model. Safe to call from several threads: each call has its own cache.

    Parameters
    ----------
    spec : a model with a transformer.
    engine : runs it.
    """

    def __init__(self, spec: ModelSpec, engine: Engine) -> None:
        assert spec.transformer is not None
        self.spec = spec
        self.transformer = spec.transformer
        self.engine = engine
        count = spec.num_codes
        order = spec.permutation if spec.permutation is not None else range(count)
        self.order: Int64Array = np.asarray(order, dtype=np.int64)
        """Raster index of the i-th code in the model's own order."""
        side = spec.autoencoder.latent_size
        self.positions: Int64Array = np.asarray(grid_position(self.order // side, self.order % side), dtype=np.int64)
        """Place of the i-th code in the grid, as the random numbers count it."""

    def generate(
        self,
        conditions: Int64Array,
        *,
        sampling: Sampling,
        seed: int,
        pictures: Int64Array,
        kept: Int64Array | None = None,
        guidance: Guidance | None = None,
        on_step: StepCallback | None = None,
        on_codes: CodesCallback | None = None,
        codes_every: int = 1,
    ) -> Int64Array:
        """Return the codes of a batch in raster order, int64 (B, h, w).

        Parameters
        ----------
        conditions : int64 (B, L). Rows that are equal are prefilled once.
        sampling : how a code is drawn.
        seed, pictures : key and picture numbers int64 (B,) of the random numbers.
        kept : int64 (B, h·w) in raster order: codes that stay, `FREE` where one is drawn. None: all are drawn.
        guidance : each picture then has a second row, of the null condition, in every run.
        on_step : called with the number of codes finished in each row; may raise to stop.
        on_codes : called after every ``codes_every`` codes with int64 (B, h, w), `FREE` where none is drawn yet; not
            after the last one, and not by models that draw all at once.
        """
        batch, count = len(conditions), self.spec.num_codes
        codes = np.full((batch, count), FREE, dtype=np.int64)  # in the model's order
        if kept is not None:
            codes[:] = kept[:, self.order]
        random = random64(
            seed,
            pictures=np.repeat(pictures, count),
            positions=np.tile(self.positions, batch),
        ).reshape(batch, count)

        def step(done: int) -> None:
            if on_step is not None:
                on_step(done)

        def show() -> None:
            if on_codes is not None:
                on_codes(self._raster(codes))

        work = Work(
            conditions=conditions if guidance is None else guidance.conditions(conditions),
            codes=codes,
            free=np.asarray(codes == FREE),
            sampling=sampling,
            seed=seed,
            pictures=pictures,
            random=random,
            guidance=guidance,
            on_step=step,
            show=show,
            shown_every=codes_every if on_codes is not None else 0,
        )
        if self.transformer.one_pass:
            self._one_pass(work)
        else:
            self._step_by_step(work)
        return self._raster(codes)

    def _raster(self, codes: Int64Array) -> Int64Array:
        """Return codes (B, h·w) of the model's order as a new (B, h, w) in raster order."""
        raster = np.empty_like(codes)
        raster[:, self.order] = codes
        side = self.spec.autoencoder.latent_size
        return raster.reshape(len(codes), side, side)

    def logits(self, conditions: Int64Array, codes: Int64Array) -> FloatArray:
        """Return teacher-forced logits float32 (B, h·w, V): row i predicts code i of the model's order.

        Parameters
        ----------
        conditions : int64 (B, L).
        codes : int64 (B, h·w), raster order.
        """
        length, count = conditions.shape[1], self.spec.num_codes
        tokens = np.concatenate([conditions, codes[:, self.order]], axis=1)[:, :-1]
        cache = self.engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
        return self.engine.prefill(cache, tokens, rows=np.arange(length - 1, length - 1 + count), block=length)

    def _step_by_step(self, work: Work) -> None:
        length = work.length
        columns = np.flatnonzero(work.free.any(axis=0))
        if not len(columns):
            return
        first = int(columns[0])  # codes before it are kept in every row and belong to the prefix
        last = int(columns[-1])
        start = self._free_prefix(first, length)
        if start > first:
            self._recompute(work, range(first, start))
        if start <= last:
            self._draw_in_turn(work, start, last)

    def _draw_in_turn(self, work: Work, start: int, last: int) -> None:
        """Draw the codes from ``start`` to ``last`` one after the other, each seen by the next."""
        length = work.length
        cache, logits = self._prefill(work.sequence(start), block=length, capacity=length + last)
        stepper = self.engine.stepper(cache)
        for i in range(start, last + 1):
            self._draw(work, i, logits)
            work.finished(i + 1)
            if i < last:
                column = work.beside_conditions(work.codes[:, i])
                logits = stepper.step(column, np.full(len(column), length + i, dtype=np.int64))

    def _free_prefix(self, first: int, length: int) -> int:
        """Return the first code from which a cache holds: earlier ones change keys of positions that see both ways."""
        return max(first, min(self.transformer.num_unmasked - length, self.spec.num_codes))

    def _recompute(self, work: Work, steps: range) -> None:
        """Draw codes inside the bidirectional prefix, where each new code changes what all others see."""
        for i in steps:
            prefix = work.sequence(i)
            _, logits = self._prefill(prefix, block=prefix.shape[1], capacity=0)
            self._draw(work, i, logits)
            work.finished(i + 1)

    def _prefill(self, prefix: Int64Array, *, block: int, capacity: int) -> tuple[Any, FloatArray]:
        """Return a cache holding ``prefix`` int64 (B, T) and the logits float32 (B, V) of its last position.

        The leading ``block`` positions (the condition) are computed as one matrix whatever follows them.
        """
        batch, length = prefix.shape
        unique, rows = np.unique(prefix, axis=0, return_inverse=True)
        rows = rows.reshape(-1)
        last = np.array([length - 1], dtype=np.int64)
        if len(unique) == batch:
            cache = self.engine.new_cache(batch=batch, capacity=max(capacity, length))
            return cache, self.engine.prefill(cache, prefix, rows=last, block=block)[:, 0]
        shared = self.engine.new_cache(batch=len(unique), capacity=length)
        logits = self.engine.prefill(shared, unique, rows=last, block=block)[:, 0]
        cache = self.engine.new_cache(batch=batch, capacity=max(capacity, length))
        cache.copy_rows(shared, rows.astype(np.int64), length)
        return cache, logits[rows]

    def _draw(self, work: Work, column: int, logits: FloatArray) -> None:
        rows = work.free[:, column]
        if not rows.any():
            return
        size = self.spec.autoencoder.codebook_size
        # a vocabulary larger than the codebook (condition codes share it) may not name a code that can't be decoded
        drawn = self.engine.draw_codes(work.guided(logits[:, :size]), work.sampling, random=work.random[:, column])
        work.codes[rows, column] = drawn[rows]

    def _one_pass(self, work: Work) -> None:
        """Predict all codes from the condition at once.

        Source: the published ``Net2NetTransformer.sample`` for ``pkeep <= 0``: the picture's places hold the kept
        leading codes, then the condition's own tokens, shifted by one.
        """
        length, count = work.length, self.spec.num_codes
        # of each row by itself: what is kept in its neighbours must not change it
        leading = np.where(work.free.any(axis=1), work.free.argmax(axis=1), count)
        is_kept = work.beside_conditions(np.arange(count) < leading[:, None])
        filled = np.where(is_kept, work.beside_conditions(work.codes), work.conditions)
        tokens = np.concatenate([work.conditions, filled[:, :-1]], axis=1)
        cache = self.engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
        rows = np.arange(length - 1, length - 1 + count)
        logits = self.engine.prefill(cache, tokens, rows=rows, block=tokens.shape[1])
        for column in range(int(leading.min()), count):
            self._draw(work, column, logits[:, column])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One batch on its way through a `CodeGenerator`.

    Attributes
    ----------
    conditions : int64 (B, L); with guidance (2B, L), the second half without the condition.
    codes : int64 (B, h·w) in the model's order, filled in place.
    free : bool (B, h·w), where a code is drawn.
    sampling, seed, pictures, random : how; the random numbers uint64 (B, h·w) are those of the seed and the pictures.
    guidance : None for none.
    on_step : told the number of codes finished in each row.
    show, shown_every : shows the codes so far; wanted after every so many codes, 0 for never.
    """

    conditions: Int64Array
    codes: Int64Array
    free: npt.NDArray[np.bool_]
    sampling: Sampling
    seed: int
    pictures: Int64Array
    random: npt.NDArray[np.uint64]
    guidance: Guidance | None
    on_step: StepCallback
    show: Callable[[], None]
    shown_every: int

    @property
    def length(self) -> int:
        """Condition tokens of a row."""
        return int(self.conditions.shape[1])

    def is_shown(self, done: int) -> bool:
        """Whether the codes are shown once ``done`` of each row are finished; not after the last one."""
        return bool(self.shown_every) and done % self.shown_every == 0 and done < self.codes.shape[1]

    def finished(self, done: int) -> None:
        """Tell, and show if it is time, that ``done`` codes of each row are finished."""
        self.on_step(done)
        if self.is_shown(done):
            self.show()

    def beside_conditions(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return ``rows`` (B, …) as often as there are conditions for each."""
        return beside_conditions(rows, self.guidance)

    def sequence(self, count: int) -> Int64Array:
        """Return the conditions and the first ``count`` codes, int64 (B or 2B, L + count)."""
        return np.concatenate([self.conditions, self.beside_conditions(self.codes[:, :count])], axis=1)

    def guided(self, logits: FloatArray) -> FloatArray:
        """Return the logits that a code is drawn from, float32 (B, V), of those of all conditions."""
        return logits if self.guidance is None else self.guidance.combined(logits)
