"""The transformer on the CPU: prefill, decode step and teacher-forced logits through one ONNX Runtime session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.runtime.sessions import open_session
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

SCORE_BYTES = 64 << 20
"""Bound on one layer's attention scores in a prefill; larger batches are split."""


class TransformerEngine:
    """One session that serves prefill (T > 1) and decode steps (T = 1), so that weights are resident once.

    Safe to call from several threads: a run touches only its caller's cache and buffers.

    Parameters
    ----------
    path : ``transformer.onnx`` of a bundle.
    spec : the transformer's sizes.
    threads : threads of the session's pool.
    """

    def __init__(self, path: Path, spec: TransformerSpec, *, threads: int) -> None:
        self.spec = spec
        self._session = open_session(path, threads=threads)

    def new_cache(self, *, batch: int, capacity: int) -> KVCache:
        """Return an empty cache for ``batch`` rows of at most ``capacity`` positions."""
        return KVCache(self.spec, batch=batch, capacity=capacity)

    def prefill(
        self,
        cache: KVCache,
        tokens: Int64Array,
        *,
        rows: Int64Array,
        block: int | None = None,
        num_unmasked: int | None = None,
    ) -> FloatArray:
        """Fill an empty cache with ``tokens`` and return logits where they are asked for.

        Parameters
        ----------
        cache : receives keys and values of positions 0 … T-1 of each row.
        tokens : int64 (B, T).
        rows : int64 (R,), the positions that get logits, ascending.
        block : leading positions that are computed as one matrix: fast, and the same bits for the same ``block``. Later
            ones are computed row by row: the same bits as through steps. Raised to ``num_unmasked``. By default
            all positions.
        num_unmasked : leading positions that see each other both ways; the model's own by default.

        Returns
        -------
        float32 (B, R, V)
        """
        batch, length = tokens.shape
        cache.reserve(length)
        unmasked = min(self.spec.num_unmasked if num_unmasked is None else num_unmasked, length)
        block = length if block is None else min(max(block, unmasked), length)
        per_row = self.spec.num_heads * length * cache.visible * 4
        group = max(1, SCORE_BYTES // per_row)
        logits = np.empty((batch, len(rows), self.spec.vocab_size), dtype=np.float32)
        if group >= batch:
            early = int(np.searchsorted(rows, block))
            logits[:, :early] = self.extend(cache, tokens[:, :block], start=0, rows=rows[:early], num_unmasked=unmasked)
            if block < length:
                late = rows[early:] - block
                logits[:, early:] = self.extend(cache, tokens[:, block:], start=block, rows=late, by_row=True)
            return logits
        for first in range(0, batch, group):
            part = tokens[first : first + group]
            small = self.new_cache(batch=len(part), capacity=cache.visible)
            logits[first : first + group] = self.prefill(small, part, rows=rows, block=block, num_unmasked=num_unmasked)
            for index in range(2 * self.spec.num_layers):
                cache.view(index)[first : first + group, :, :, :length] = small.view(index)[:, :, :, :length]
        return logits

    def extend(
        self,
        cache: KVCache,
        tokens: Int64Array,
        *,
        start: int,
        rows: Int64Array,
        num_unmasked: int = 0,
        by_row: bool = False,
    ) -> FloatArray:
        """Append ``tokens`` int64 (B, T) at position ``start`` of every row; return logits float32 (B, R, V).

        Parameters
        ----------
        rows : int64 (R,), which of the T tokens get logits.
        num_unmasked : leading positions that see each other both ways; they must all be among ``tokens``.
        by_row : compute each token's attention by itself: the same bits as through steps.
        """
        batch, length = tokens.shape
        cache.reserve(start + length)
        positions = np.broadcast_to(np.arange(start, start + length, dtype=np.int64), (batch, length))
        mask = attention_mask(start, length, cache.visible, num_unmasked)
        heads, size = self.spec.num_heads, self.spec.head_size
        shape = (batch, heads, length, 1, size) if by_row else (batch, heads, 1, length, size)
        wanted = rows if len(rows) else np.zeros(1, dtype=np.int64)  # a graph always makes some logits
        binding = self._session.io_binding()
        for name, value in (
            ("tokens", tokens),
            ("positions", positions),
            ("write_at", np.full(batch, start, dtype=np.int64)),
            ("query_shape", np.array(shape, dtype=np.int64)),
            ("mask", mask[None, None, :, None, :] if by_row else mask[None, None, None, :, :]),
            ("rows", np.tile(wanted.astype(np.int64), (batch, 1))),
        ):
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        bind_cache(binding, cache)
        logits = np.empty((batch, len(wanted), self.spec.vocab_size), dtype=np.float32)
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        self._session.run_with_iobinding(binding)
        return logits[:, : len(rows)]

    def stepper(self, cache: KVCache) -> Stepper:
        """Return a `Stepper` that appends one token a row to ``cache``."""
        return Stepper(self._session, self.spec, cache)


class Stepper:
    """Decode steps over one cache, with every buffer bound once and filled in place.

    Rows may stand at different lengths: row b's token is written at ``lengths[b]`` and sees the positions up to it.
    """

    def __init__(self, session: ort.InferenceSession, spec: TransformerSpec, cache: KVCache) -> None:
        self._session, self._cache = session, cache
        batch = cache.batch
        self._tokens = np.zeros((batch, 1), dtype=np.int64)
        self._positions = np.zeros((batch, 1), dtype=np.int64)
        self._write_at = np.zeros(batch, dtype=np.int64)
        self._rows = np.zeros((batch, 1), dtype=np.int64)
        self._query_shape = np.array([batch, spec.num_heads, 1, 1, spec.head_size], dtype=np.int64)
        self._logits = np.empty((batch, 1, spec.vocab_size), dtype=np.float32)
        self._mask = np.empty(0, dtype=np.float32)
        self._binding = session.io_binding()
        self._bind()

    def step(self, tokens: Int64Array, lengths: Int64Array) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``lengths`` int64 (B,) and return logits float32 (B, V).

        The result is a view that the next step overwrites.
        """
        if self._cache.reserve(int(lengths.max()) + 1):
            self._bind()
        self._tokens[:, 0] = tokens
        self._positions[:, 0] = lengths
        self._write_at[:] = lengths
        visible = np.arange(self._cache.visible) <= lengths[:, None]
        self._mask[:, 0, 0, 0, :] = np.where(visible, np.float32(0), np.float32(-np.inf))
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0]

    def _bind(self) -> None:
        self._mask = np.empty((self._cache.batch, 1, 1, 1, self._cache.visible), dtype=np.float32)
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        for name, value in (
            ("tokens", self._tokens),
            ("positions", self._positions),
            ("write_at", self._write_at),
            ("query_shape", self._query_shape),
            ("mask", self._mask),
            ("rows", self._rows),
        ):
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        bind_cache(self._binding, self._cache)
        self._binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(self._logits))


def bind_cache(binding: ort.IOBinding, cache: KVCache) -> None:
    """Bind each buffer of ``cache`` as past and as present, so that a run updates it in place."""
    for index, value in enumerate(cache.values):
        name = f"{'value' if index % 2 else 'key'}_{index // 2}"
        binding.bind_ortvalue_input(f"past_{name}", value)
        binding.bind_ortvalue_output(f"present_{name}", value)


def attention_mask(start: int, length: int, visible: int, num_unmasked: int) -> FloatArray:
    """Return the additive mask float32 (length, visible) of positions start …: 0 where position i sees j, else -inf.

    Position i sees j when j <= i, or when both are below ``num_unmasked``.
    """
    i = np.arange(start, start + length)[:, None]
    j = np.arange(visible)[None, :]
    sees = (j <= i) | ((i < num_unmasked) & (j < num_unmasked))
    return np.where(sees, np.float32(0), np.float32(-np.inf)).astype(np.float32)
