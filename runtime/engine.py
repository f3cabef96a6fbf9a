"""What runs a transformer, as the loops that draw codes see it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
UInt64Array = npt.NDArray[np.uint64]


class Steps(Protocol):
    """Decode steps over the leading rows of one cache."""

    def step(self, tokens: Int64Array, lengths: Int64Array) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``lengths`` int64 (B,); return logits float32 (B, V), good until the next.

        They are of the cache's first B rows; each step may take another number of them.
        """


class Engine(Protocol):
    """One transformer: `trt_vqgan.runtime.transformer.TransformerEngine`, or the driver of a device.

    A cache is whatever the engine's own `new_cache` gives: it has ``batch`` and ``capacity``, and ``copy_rows(source,
    rows, positions, first=0)``, which copies the leading ``positions`` of row ``rows[i]`` of another to ``first + i``.
    """

    spec: TransformerSpec

    def new_cache(self, *, batch: int, capacity: int) -> Any:
        """Return an empty cache for ``batch`` rows of at most ``capacity`` positions."""

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        """Return the bytes that `new_cache` allocates for it, wherever that is."""

    def prefill(
        self,
        cache: Any,
        tokens: Int64Array,
        *,
        rows: Int64Array,
        block: int | None = None,
        num_unmasked: int | None = None,
    ) -> FloatArray:
        """Fill an empty cache with ``tokens`` int64 (B, T); return logits float32 (B, R, V) of positions ``rows``."""

    def extend(
        self, cache: Any, tokens: Int64Array, *, start: int, rows: Int64Array, block: int | None = None
    ) -> FloatArray:
        """Append positions ``start`` … of ``tokens`` int64 (B, T), whole sequences; return logits float32 (B, R, V).

        ``rows`` are positions from ``start`` on, ascending; positions that see each other both ways lie before it.
        The bits are those of a `prefill` of the whole with this ``block``.
        """

    def runs(self, start: int, end: int, *, batch: int) -> list[tuple[int, int]]:
        """Return (first, last + 1) of the runs that compute positions ``start`` … ``end`` - 1."""

    def stepper(self, cache: Any) -> Steps:
        """Return steps that append one token a row to ``cache``."""

    def draw_codes(self, logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
        """Return one code int64 (B,) for each row of logits, as `trt_vqgan.runtime.sampler.draw_codes`, to the bit."""
