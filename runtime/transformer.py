"""The transformer on the CPU: prefill, decode step and teacher-forced logits through one ONNX Runtime session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.runtime.sampler import Sampling, draw_codes
from trt_vqgan.runtime.sessions import open_session
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
UInt64Array = npt.NDArray[np.uint64]

SCORE_BYTES = 64 << 20
"""Bound on one layer's attention scores in a prefill; larger batches are split."""

PIECE = 192
"""Positions of one row in one run of a long prefill. Each run computes all pairs of its positions and all visible ones,
and masked pairs cost several times as much in softmax as others, because their exponentials underflow."""

EXACT_HEAD_SIZE = 128
"""Largest head size whose scores ONNX Runtime sums in one go, whatever the shapes; larger ones go row by row."""

SAFE_POSITIONS = 128
"""Visible positions over which ONNX Runtime sums values in one go, whatever the shapes."""

THREAD_PRODUCTS = 1 << 16
"""Multiplications of a matrix product that ONNX Runtime gives one thread before it uses another."""


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
        self._threads = threads
        self._session = open_session(path, threads=threads)

    def new_cache(self, *, batch: int, capacity: int) -> KVCache:
        """Return an empty cache for ``batch`` rows of at most ``capacity`` positions."""
        return KVCache(self.spec, batch=batch, capacity=capacity)

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        """Return the bytes that `new_cache` allocates for it."""
        return KVCache.bytes_needed(self.spec, batch=batch, capacity=capacity)

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
        block : leading positions that are computed as matrices: fast, and the same bits however they are cut. Later
            ones are computed row by row: the same bits as through steps. Raised to ``num_unmasked``. By default
            all positions. Heads larger than `EXACT_HEAD_SIZE` have only ``num_unmasked``.
        num_unmasked : leading positions that see each other both ways; the model's own by default.

        Returns
        -------
        float32 (B, R, V)
        """
        batch, length = tokens.shape
        unmasked = min(self.spec.num_unmasked if num_unmasked is None else num_unmasked, length)
        block = length if block is None else min(max(block, unmasked), length)
        if self.spec.head_size > EXACT_HEAD_SIZE:
            block = unmasked
        per_row = self.spec.num_heads * min(length, max(2 * PIECE, unmasked)) * bucket_length(length) * 4
        group = max(1, SCORE_BYTES // per_row)
        if group >= batch:
            early = int(np.searchsorted(rows, block))
            logits = self._append(cache, tokens[:, :block], 0, rows[:early], num_unmasked=unmasked)
            if block < length:
                late = self._append(cache, tokens, block, rows[early:], by_row=True)
                logits = np.concatenate([logits, late], axis=1)
            return logits
        cache.reserve(length)
        logits = np.empty((batch, len(rows), self.spec.vocab_size), dtype=np.float32)
        for first in range(0, batch, group):
            part = tokens[first : first + group]
            small = self.new_cache(batch=len(part), capacity=length)
            logits[first : first + group] = self.prefill(small, part, rows=rows, block=block, num_unmasked=num_unmasked)
            for index in range(2 * self.spec.num_layers):
                cache.view(index)[first : first + group, :, :, :length] = small.view(index)[:, :, :, :length]
        return logits

    def extend(
        self, cache: KVCache, tokens: Int64Array, *, start: int, rows: Int64Array, block: int | None = None
    ) -> FloatArray:
        """Append positions ``start`` … of ``tokens``, with the bits of a `prefill` of all of them.

        Parameters
        ----------
        cache : holds positions 0 … start-1 of each row, computed in the same way, all that see both ways among them.
        tokens : int64 (B, T), the whole sequences.
        rows : int64 (R,), the positions that get logits, ascending, none before ``start``.
        block : as in `prefill`; by default all positions.

        Returns
        -------
        float32 (B, R, V)
        """
        length = tokens.shape[1]
        end = length if block is None else max(start, min(block, length))
        if self.spec.head_size > EXACT_HEAD_SIZE:
            end = start
        early = int(np.searchsorted(rows, end))
        unmasked = self.spec.num_unmasked
        logits = self._append(cache, tokens[:, :end], start, rows[:early], num_unmasked=unmasked)
        if end == length:
            return logits
        return np.concatenate([logits, self._append(cache, tokens, end, rows[early:], by_row=True)], axis=1)

    def runs(self, start: int, end: int, *, batch: int, num_unmasked: int = 0) -> list[tuple[int, int]]:
        """Return (first, last + 1) of the runs that compute positions ``start`` … ``end`` - 1 as matrices.

        ONNX Runtime multiplies matrices of two rows and more by one routine, which adds the products of each result
        one by one, in blocks of the inner axis. So the bits don't depend on how a sequence is cut, if no run has one
        position (another routine), and if the blocks stay the same. They change where a matrix is divided among
        threads along few columns, which happens to products of fewer rows than columns when there are more threads
        than heads. Such runs are widened: a position that is computed again gets the same bits.

        Source: ``MlasGemmBatch`` and ``MlasSgemmOperation`` of ONNX Runtime (64 Ki multiplications a thread, blocks of
        128 along the inner axis, or more where there are at most 64 columns).
        """
        found = []
        first = start
        while first < end:
            last = first + PIECE if end - first >= PIECE + PIECE // 2 else end
            last = max(last, min(num_unmasked, end))
            products = max(last - first, 2) * bucket_length(last) * self.spec.head_size
            divided = min(products // THREAD_PRODUCTS + 1, self._threads) > batch * self.spec.num_heads
            least = self.spec.head_size if divided and bucket_length(last) > SAFE_POSITIONS else 2
            found.append((max(0, min(first, last - least)), last))
            first = last
        return found

    def _append(
        self,
        cache: KVCache,
        tokens: Int64Array,
        start: int,
        rows: Int64Array,
        *,
        num_unmasked: int = 0,
        by_row: bool = False,
    ) -> FloatArray:
        """Compute positions ``start`` … of ``tokens`` in as many runs as is best."""
        batch, length = tokens.shape
        if by_row:  # any cut is exact, but ONNX Runtime turns rows that share one matrix into one product
            piece = PIECE if batch * self.spec.num_heads > 1 else 1
            runs = [(first, min(first + piece, length)) for first in range(start, length, piece)]
        else:
            runs = self.runs(start, length, batch=batch, num_unmasked=num_unmasked)
        logits = np.empty((batch, len(rows), self.spec.vocab_size), dtype=np.float32)
        done = 0
        for first, last in runs:
            ready = int(np.searchsorted(rows, last))
            logits[:, done:ready] = self._run(
                cache, tokens, first, last, rows[done:ready], num_unmasked=num_unmasked, by_row=by_row
            )
            done = ready
        return logits

    def _run(
        self,
        cache: KVCache,
        tokens: Int64Array,
        first: int,
        last: int,
        rows: Int64Array,
        *,
        num_unmasked: int = 0,
        by_row: bool = False,
    ) -> FloatArray:
        """Compute positions ``first`` … ``last`` - 1 of ``tokens`` in one run; return the logits of ``rows``.

        Parameters
        ----------
        num_unmasked : leading positions that see each other both ways; they must all be among these, or none.
        by_row : compute each position's attention by itself: the same bits as through steps.
        """
        batch, length = len(tokens), last - first
        cache.reserve(last)
        positions = np.broadcast_to(np.arange(first, last, dtype=np.int64), (batch, length))
        mask = attention_mask(first, length, cache.visible, num_unmasked)
        heads, size = self.spec.num_heads, self.spec.head_size
        shape = (batch, heads, length, 1, size) if by_row else (batch, heads, 1, length, size)
        wanted = rows - first if len(rows) else np.zeros(1, dtype=np.int64)  # a graph always makes some logits
        binding = self._session.io_binding()
        for name, value in (
            ("tokens", tokens[:, first:last]),
            ("positions", positions),
            ("write_at", np.full(batch, first, dtype=np.int64)),
            ("query_shape", np.array(shape, dtype=np.int64)),
            ("mask", mask[None, None, :, None, :] if by_row else mask[None, None, None, :, :]),
            ("rows", np.tile(wanted.astype(np.int64), (batch, 1))),
        ):
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        bind_cache(binding, cache.values)
        logits = np.empty((batch, len(wanted), self.spec.vocab_size), dtype=np.float32)
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        self._session.run_with_iobinding(binding)
        return logits[:, : len(rows)]

    def stepper(self, cache: KVCache) -> Stepper:
        """Return a `Stepper` that appends one token a row to ``cache``."""
        return Stepper(self._session, self.spec, cache)

    def draw_codes(self, logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
        """Return one code int64 (B,) for each row of logits float32 (B, V), drawn with NumPy."""
        return draw_codes(logits, sampling, random=random)


class Stepper:
    """Decode steps over the leading rows of one cache, with every buffer bound once and filled in place.

    Rows may stand at different lengths: row b's token is written at ``lengths[b]`` and sees the positions up to it.
    Buffers are bound again when another number of rows is stepped, and when the cache moves its own.
    """

    def __init__(self, session: ort.InferenceSession, spec: TransformerSpec, cache: KVCache) -> None:
        self._session, self._cache, self._spec = session, cache, spec
        self._binding = session.io_binding()
        self._bind(cache.batch)

    def _bind(self, batch: int) -> None:
        spec = self._spec
        self._tokens = np.zeros((batch, 1), dtype=np.int64)
        self._positions = np.zeros((batch, 1), dtype=np.int64)
        self._write_at = np.zeros(batch, dtype=np.int64)
        self._rows = np.zeros((batch, 1), dtype=np.int64)
        self._query_shape = np.array([batch, spec.num_heads, 1, 1, spec.head_size], dtype=np.int64)
        self._logits = np.empty((batch, 1, spec.vocab_size), dtype=np.float32)
        self._mask = np.empty((batch, 1, 1, 1, self._cache.visible), dtype=np.float32)
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
        bind_cache(self._binding, self._cache.leading(batch))
        self._binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(self._logits))

    def step(self, tokens: Int64Array, lengths: Int64Array) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``lengths`` int64 (B,) and return logits float32 (B, V).

        The result is a view that the next step overwrites.
        """
        self._cache.reserve(int(lengths.max()) + 1)
        if self._mask.shape[-1] != self._cache.visible or len(tokens) != len(self._tokens):
            self._bind(len(tokens))
        self._tokens[:, 0] = tokens
        self._positions[:, 0] = lengths
        self._write_at[:] = lengths
        visible = np.arange(self._cache.visible) <= lengths[:, None]
        self._mask[:, 0, 0, 0, :] = np.where(visible, np.float32(0), np.float32(-np.inf))
        self._session.run_with_iobinding(self._binding)
        return self._logits[:, 0]


def bind_cache(binding: ort.IOBinding, buffers: list[ort.OrtValue]) -> None:
    """Bind each buffer of a cache as past and as present, so that a run updates it in place."""
    for index, value in enumerate(buffers):
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
