"""Draws the codes of a batch of pictures, one position at a time, with cached attention."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling, draw_codes
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

FREE = -1
"""Marks a code that is to be drawn, among codes that are kept."""

StepCallback = Callable[[int], None]


class CodeGenerator:
    """The generation loop of one model. Safe to call from several threads: each call has its own cache.

    Parameters
    ----------
    spec : a model with a transformer.
    engine : runs it.
    """

    def __init__(self, spec: ModelSpec, engine: TransformerEngine) -> None:
        assert spec.transformer is not None
        self.spec = spec
        self.transformer = spec.transformer
        self.engine = engine
        count = spec.num_codes
        order = spec.permutation if spec.permutation is not None else range(count)
        self.order: Int64Array = np.asarray(order, dtype=np.int64)
        """Raster index of the i-th code in the model's own order."""
        side = spec.autoencoder.latent_size
        self._positions: Int64Array = np.asarray(grid_position(self.order // side, self.order % side), dtype=np.int64)

    def generate(
        self,
        conditions: Int64Array,
        *,
        sampling: Sampling,
        seed: int,
        pictures: Int64Array,
        kept: Int64Array | None = None,
        on_step: StepCallback | None = None,
    ) -> Int64Array:
        """Return the codes of a batch in raster order, int64 (B, h, w).

        Parameters
        ----------
        conditions : int64 (B, L). Rows that are equal are prefilled once.
        sampling : how a code is drawn.
        seed, pictures : key and picture numbers int64 (B,) of the random numbers.
        kept : int64 (B, h·w) in raster order: codes that stay, `FREE` where one is drawn. None: all are drawn.
        on_step : called with the number of codes finished in each row; may raise to stop.
        """
        batch, count = len(conditions), self.spec.num_codes
        codes = np.full((batch, count), FREE, dtype=np.int64)  # in the model's order
        if kept is not None:
            codes[:] = kept[:, self.order]
        random = random64(
            seed,
            pictures=np.repeat(pictures, count),
            positions=np.tile(self._positions, batch),
        ).reshape(batch, count)
        if self.transformer.one_pass:
            self._one_pass(conditions, codes, sampling, random)
        else:
            self._step_by_step(conditions, codes, sampling, random, on_step)
        raster = np.empty_like(codes)
        raster[:, self.order] = codes
        side = self.spec.autoencoder.latent_size
        return raster.reshape(batch, side, side)

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

    def _step_by_step(
        self,
        conditions: Int64Array,
        codes: Int64Array,
        sampling: Sampling,
        random: npt.NDArray[np.uint64],
        on_step: StepCallback | None,
    ) -> None:
        batch, count = codes.shape
        length = conditions.shape[1]
        free = codes == FREE
        columns = free.any(axis=0)
        if not columns.any():
            return
        first = int(columns.argmax())  # codes before it are kept in every row and belong to the prefix
        last = count - 1 - int(columns[::-1].argmax())
        start = self._free_prefix(first, length)
        if start > first:
            self._recompute(conditions, codes, free, sampling, random, range(first, start), on_step)
        if start > last:
            return
        prefix = np.concatenate([conditions, codes[:, :start]], axis=1)
        cache, logits = self._prefill(prefix, block=length, capacity=length + last)
        stepper = self.engine.stepper(cache)
        for i in range(start, last + 1):
            self._draw(codes, i, free, logits, sampling, random)
            if on_step is not None:
                on_step(i + 1)
            if i < last:
                logits = stepper.step(codes[:, i], np.full(batch, length + i, dtype=np.int64))

    def _free_prefix(self, first: int, length: int) -> int:
        """Return the first code from which a cache holds: earlier ones change keys of positions that see both ways."""
        return max(first, min(self.transformer.num_unmasked - length, self.spec.num_codes))

    def _recompute(
        self,
        conditions: Int64Array,
        codes: Int64Array,
        free: npt.NDArray[np.bool_],
        sampling: Sampling,
        random: npt.NDArray[np.uint64],
        steps: range,
        on_step: StepCallback | None,
    ) -> None:
        """Draw codes inside the bidirectional prefix, where each new code changes what all others see."""
        for i in steps:
            prefix = np.concatenate([conditions, codes[:, :i]], axis=1)
            _, logits = self._prefill(prefix, block=prefix.shape[1], capacity=0)
            self._draw(codes, i, free, logits, sampling, random)
            if on_step is not None:
                on_step(i + 1)

    def _prefill(self, prefix: Int64Array, *, block: int, capacity: int) -> tuple[KVCache, FloatArray]:
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

    def _draw(
        self,
        codes: Int64Array,
        column: int,
        free: npt.NDArray[np.bool_],
        logits: FloatArray,
        sampling: Sampling,
        random: npt.NDArray[np.uint64],
    ) -> None:
        rows = free[:, column]
        if not rows.any():
            return
        size = self.spec.autoencoder.codebook_size
        # a vocabulary larger than the codebook (condition codes share it) may not name a code that can't be decoded
        drawn = draw_codes(logits[:, :size], sampling, random=random[:, column])
        codes[rows, column] = drawn[rows]

    def _one_pass(
        self, conditions: Int64Array, codes: Int64Array, sampling: Sampling, random: npt.NDArray[np.uint64]
    ) -> None:
        """Predict all codes from the condition at once.

        Source: the published ``Net2NetTransformer.sample`` for ``pkeep <= 0``: the picture's places hold the kept
        leading codes, then the condition's own tokens, shifted by one.
        """
        length, count = conditions.shape[1], self.spec.num_codes
        free = codes == FREE
        columns = free.any(axis=0)
        kept = int(columns.argmax()) if columns.any() else count
        if kept == count:
            return
        tokens = np.concatenate([conditions, codes[:, :kept], conditions[:, kept:-1]], axis=1)
        cache = self.engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
        rows = np.arange(length - 1, length - 1 + count)
        logits = self.engine.prefill(cache, tokens, rows=rows, block=tokens.shape[1])
        for column in range(kept, count):
            self._draw(codes, column, free, logits[:, column], sampling, random)
