"""The transformer on the CPU through kernels/cpu: the same calls and promises as through ONNX Runtime."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError, ShapeError
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.cache import NativeCache, Number
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.library import Run, Sizes, Stored, Table, open_library
from trt_vqgan.runtime.native.matrices import StoredMatrix, matrices
from trt_vqgan.runtime.native.sampler import NativeSampler
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import TransformerSpec

_ALIGNMENT = 64  # of a packed matrix

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
UInt64Array = npt.NDArray[np.uint64]


class NativeEngine:
    """One copy of the weights, packed for reading from front to back, that serves prefill and decode steps.

    Every number is summed in one fixed order, so logits are equal to the bit in any batch, through prefill or steps,
    with any number of threads. Where matrices are in 8 or 4 bits, keys and values are kept in float16: of float32 they
    would be a tenth to a fifth of what a step of one picture reads, and most of what one of many does. Safe to call
    from several threads: runs take turns, and touch only their caller's cache.

    Attributes
    ----------
    cache_number : what keys and values are kept in, float32 or float16.

    Parameters
    ----------
    path : ``transformer.onnx`` of a bundle.
    spec : the transformer's sizes.
    threads : threads that work on a run, the caller's included.
    library : the shared library; by default the one of this machine, compiled if need be.
    instructions : "amx", "avx512", "avx2", "neondot", "neon" or "plain"; by default the best that the processor has.

    Raises
    ------
    BackendUnavailableError : the library can't be built or loaded here, or the processor lacks the instructions.
    BundleError : the file doesn't hold the weights of such a transformer.
    """

    def __init__(
        self, path: Path, spec: TransformerSpec, *, threads: int, library: Path | None = None, instructions: str = ""
    ) -> None:
        self.spec = spec
        library = built_library() if library is None else library
        self._library = open_library(library)
        self._sampler = NativeSampler(library, instructions=instructions)
        sizes = Sizes(spec.vocab_size, spec.max_seq_len, spec.num_layers, spec.num_heads, spec.hidden_size)
        model = self._library.cpu_open(ctypes.byref(sizes), threads, instructions.encode())
        if not model:
            raise BackendUnavailableError(
                f"native backend: this processor has no {instructions or 'known'} instructions, or {threads} threads "
                "are not to be had; use --backend onnxruntime"
            )
        self._model = ctypes.c_void_p(model)
        self._close = weakref.finalize(self, self._library.cpu_close, self._model)
        self.cache_number: Number = np.float32
        self._tables: list[npt.NDArray[Any]] = []  # read by the library for as long as it runs
        self._read(GraphWeights(path))

    @property
    def instructions(self) -> str:
        """The instruction set that runs, such as "AVX-512 VNNI, AMX"."""
        name: bytes = self._library.cpu_instructions(self._model)
        return name.decode()

    def describe(self) -> str:
        """Return what runs, such as "AVX-512 VNNI, caches in float16"."""
        return self.instructions + (", caches in float16" if self.cache_number is np.float16 else "")

    def new_cache(self, *, batch: int, capacity: int) -> NativeCache:
        """Return an empty cache for ``batch`` rows of at most ``capacity`` positions."""
        return NativeCache(self.spec, batch=batch, capacity=capacity, number=self.cache_number)

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        """Return the bytes that `new_cache` allocates for it."""
        return NativeCache.bytes_needed(self.spec, batch=batch, capacity=capacity, number=self.cache_number)

    def prefill(
        self,
        cache: NativeCache,
        tokens: Int64Array,
        *,
        rows: Int64Array,
        block: int | None = None,
        num_unmasked: int | None = None,
    ) -> FloatArray:
        """Fill an empty cache with ``tokens`` int64 (B, T) and return logits float32 (B, R, V) of positions ``rows``.

        Parameters
        ----------
        rows : int64 (R,), ascending.
        block : without effect here: the bits are the same however a sequence is cut.
        num_unmasked : leading positions that see each other both ways; the model's own by default.
        """
        unmasked = self.spec.num_unmasked if num_unmasked is None else num_unmasked
        return self._append(cache, tokens, 0, rows, num_unmasked=min(unmasked, tokens.shape[1]))

    def extend(
        self, cache: NativeCache, tokens: Int64Array, *, start: int, rows: Int64Array, block: int | None = None
    ) -> FloatArray:
        """Append positions ``start`` … of ``tokens`` int64 (B, T), the whole sequences; return logits (B, R, V).

        Parameters
        ----------
        cache : holds positions 0 … start-1 of each row, all that see both ways among them.
        rows : int64 (R,), the positions that get logits, ascending, none before ``start``.
        block : without effect here, as in `prefill`.
        """
        return self._append(cache, tokens[:, start:], start, rows - start, num_unmasked=self.spec.num_unmasked)

    def runs(self, start: int, end: int, *, batch: int, num_unmasked: int = 0) -> list[tuple[int, int]]:
        """Return (first, last + 1) of the runs that compute positions ``start`` … ``end`` - 1: one, of just these."""
        return [(start, end)]

    def stepper(self, cache: NativeCache) -> NativeStepper:
        """Return a `NativeStepper` that appends one token a row to ``cache``."""
        return NativeStepper(self, cache)

    def draw_codes(self, logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
        """Return one code int64 (B,) for each row of logits float32 (B, V), drawn in C++."""
        return self._sampler.draw_codes(logits, sampling, random=random)

    def _append(
        self, cache: NativeCache, tokens: Int64Array, start: int, rows: Int64Array, *, num_unmasked: int
    ) -> FloatArray:
        logits = np.empty((len(tokens), len(rows), self.spec.vocab_size), dtype=np.float32)
        starts = np.full(len(tokens), start, dtype=np.int64)
        self.run(cache, tokens, starts=starts, rows=rows, num_unmasked=num_unmasked, logits=logits)
        return logits

    def run(
        self,
        cache: NativeCache,
        tokens: Int64Array,
        *,
        starts: Int64Array,
        rows: Int64Array,
        num_unmasked: int,
        logits: FloatArray,
    ) -> None:
        """Append ``tokens`` int64 (B, T) of row b at position ``starts[b]``, and fill ``logits`` float32 (B, R, V).

        The rows are the first B of the cache.

        Raises
        ------
        ShapeError : a token or position that the model doesn't have.
        """
        batch, length = tokens.shape
        if not tokens.size:
            return
        self._check(cache, tokens.ravel().tolist(), starts.tolist(), length)
        assert batch == len(starts) <= cache.batch
        assert logits.shape == (batch, len(rows), self.spec.vocab_size)
        assert not len(rows) or (rows.min() >= 0 and rows.max() < length)
        inputs = [np.ascontiguousarray(array, dtype=np.int64) for array in (tokens, starts, rows)]
        run = Run(
            batch,
            length,
            num_unmasked,
            len(rows),
            *(array.ctypes.data for array in inputs),
            cache.keys.ctypes.data,
            cache.values.ctypes.data,
            cache.capacity,
            cache.batch,
            cache.keys.itemsize,
            logits.ctypes.data,
        )
        self._run(run)

    def _check(self, cache: NativeCache, tokens: list[int], starts: list[int], length: int) -> None:
        """Refuse tokens and positions at which the library would read outside its tables."""
        if min(tokens) < 0 or max(tokens) >= self.spec.vocab_size:
            raise ShapeError(
                f"tokens: found {min(tokens)} to {max(tokens)}, wanted 0 to {self.spec.vocab_size - 1}, codes of the "
                "vocabulary"
            )
        limit = min(self.spec.max_seq_len, cache.capacity)
        if min(starts) < 0 or max(starts) + length > limit:
            raise ShapeError(f"positions: found {min(starts)} to {max(starts) + length - 1}, wanted 0 to {limit - 1}")

    def append_one(self, cache: NativeCache, run: Run, tokens: list[int], lengths: list[int]) -> None:
        """Do ``run``, whose memory holds one of ``tokens`` and of ``lengths`` for each row.

        Raises
        ------
        ShapeError : as `run`.
        """
        self._check(cache, tokens, lengths, 1)
        run.batch = len(tokens)
        self._run(run)

    def _run(self, run: Run) -> None:
        if not self._library.cpu_run(self._model, ctypes.byref(run)):
            raise MemoryError(f"native backend: no memory for a run of {run.batch} rows of {run.tokens} tokens")

    def _read(self, weights: GraphWeights) -> None:
        sources = list(matrices(weights, self.spec))
        if any(source.bits < 32 for source in sources):
            self.cache_number = np.float16
        needed = sum(
            self._library.cpu_packed_bytes(sum(s.outputs), s.inputs, s.bits, s.block) + _ALIGNMENT for s in sources
        )
        if not self._library.cpu_reserve(self._model, needed):
            raise MemoryError(f"native backend: no memory for {needed} bytes of weights")
        for index, source in enumerate(sources):
            self._pack(index, source)
        width = (self.spec.hidden_size,)
        for index, name in enumerate(self._norms()):
            weight, bias = (weights.array(f"{name}.{kind}", width, np.float32) for kind in ("weight", "bias"))
            self._library.cpu_set_norm(self._model, index, weight.ctypes.data, bias.ctypes.data)
        for index, (name, rows) in enumerate(
            (("tok_emb.weight", self.spec.vocab_size), ("pos_emb", self.spec.max_seq_len))
        ):
            self._set_table(index, weights, name, rows)

    def _pack(self, index: int, source: StoredMatrix) -> None:
        codes, scales, bias = source.read()
        stored = Stored(
            sum(source.outputs),
            source.inputs,
            source.bits,
            source.block,
            codes.ctypes.data,
            None if scales is None else scales.ctypes.data,
        )
        at = None if bias is None else bias.ctypes.data
        packed = self._library.cpu_pack(self._model, index, ctypes.byref(stored), at)
        if not packed:
            raise MemoryError("native backend: no memory for the weights")

    def _norms(self) -> Iterator[str]:
        for layer in range(self.spec.num_layers):
            yield f"blocks.{layer}.ln1"
            yield f"blocks.{layer}.ln2"
        yield "ln_f"

    def _set_table(self, index: int, weights: GraphWeights, name: str, rows: int) -> None:
        shape = (rows, self.spec.hidden_size)
        if name in weights:
            held = [weights.array(name, shape, np.float32)]
            table = Table(held[0].ctypes.data, None, None)
        else:
            codes = weights.array(f"{name}.codes", shape, np.int8)
            held = [codes, weights.array(f"{name}.scales", (rows, 1), np.float16)]
            table = Table(None, held[0].ctypes.data, held[1].ctypes.data)
        self._tables += held
        self._library.cpu_set_table(self._model, index, ctypes.byref(table))


class NativeStepper:
    """Decode steps over the leading rows of one cache, which may stand at different lengths.

    What the library is told lies in one place from the first step on, so that a step only fills in what is new.
    """

    def __init__(self, engine: NativeEngine, cache: NativeCache) -> None:
        self._engine, self._cache = engine, cache
        self._logits = np.empty((cache.batch, engine.spec.vocab_size), dtype=np.float32)
        self._tokens = np.zeros(cache.batch, dtype=np.int64)
        self._lengths = np.zeros(cache.batch, dtype=np.int64)
        self._rows = np.zeros(1, dtype=np.int64)
        self._run = Run(
            0,
            1,
            0,
            1,
            *(array.ctypes.data for array in (self._tokens, self._lengths, self._rows)),
            cache.keys.ctypes.data,
            cache.values.ctypes.data,
            cache.capacity,
            cache.batch,
            cache.keys.itemsize,
            self._logits.ctypes.data,
        )

    def step(self, tokens: Int64Array, lengths: Int64Array) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``lengths`` int64 (B,) and return logits float32 (B, V).

        The result is a view that the next step overwrites.
        """
        count = len(tokens)
        assert count == len(lengths) <= self._cache.batch
        logits = self._logits[:count]
        if not count:
            return logits
        self._tokens[:count] = tokens
        self._lengths[:count] = lengths
        self._engine.append_one(self._cache, self._run, tokens.tolist(), lengths.tolist())
        return logits
