"""How fast this machine reads memory: the ceiling of everything that reads each weight once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np

ARRAY_BYTES = 512 << 20
"""Larger than any cache level that one virtual machine is likely to own."""


class ReadBandwidth:
    """Measures how fast ``threads`` threads together read an array that no cache holds.

    Each thread sums a slice as 64-bit integers; NumPy lets go of the interpreter while it sums. Summing integers read
    as fast as the fastest of ten NumPy reductions on an Intel Xeon (sum, max, bitwise or, dot product, of 8 to 64
    bits), and 4 to 8 % faster than summing floats, so it is the memory that is measured.

    Samples are to be taken between other measurements, so that they see the same machine.
    """

    def __init__(self, *, threads: int, array_bytes: int = ARRAY_BYTES) -> None:
        self._array = np.ones(array_bytes // 8, dtype=np.int64)  # written, so that every page exists
        self._slices = np.array_split(self._array, threads)
        self._pool = ThreadPoolExecutor(threads)
        self.samples: list[float] = []
        """Bytes a second, one for each `sample`."""
        self._read()

    def __enter__(self) -> ReadBandwidth:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def sample(self) -> float:
        """Read the array once more, keep the rate and return it, in bytes a second."""
        self.samples.append(self._read())
        return self.samples[-1]

    @property
    def best_gb_per_s(self) -> float:
        """The fastest sample, in 10^9 bytes a second; what the machine can do."""
        return max(self.samples) / 1e9

    @property
    def median_gb_per_s(self) -> float:
        """The median sample, in 10^9 bytes a second; what it did during the run."""
        return float(np.median(self.samples)) / 1e9

    def _read(self) -> float:
        start = time.perf_counter()
        total = sum(self._pool.map(_sum, self._slices))
        seconds = time.perf_counter() - start
        assert total == self._array.size
        return self._array.nbytes / seconds


def _sum(values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int(values.sum())
