"""A tensor that still lies in its file, and how to read it without holding the file."""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import CheckpointError

# Element types by the name that torch gives them. NumPy has no bfloat16, so its bits are read.
DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}


@dataclasses.dataclass(frozen=True)
class FileStamp:
    """A file, its size and its time of change, so that a replaced file isn't read with stale offsets."""

    path: Path
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of the file as it is now."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file.

    Attributes
    ----------
    file : the file.
    start : byte offset of its first element.
    dtype : element type, a key of `DTYPES`.
    shape : dimensions.
    strides : elements between neighbours along each dimension.
    """

    file: FileStamp
    start: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_integer(self) -> bool:
        """Whether its elements are integers."""
        return DTYPES[self.dtype].kind in "iu" and self.dtype != "bfloat16"

    def read(self) -> NDArray[np.float32]:
        """Return the tensor as float32, C-contiguous.

        A float32 tensor is a private memory map of its part of the file: its pages are read when touched and writing
        to them changes neither file nor other readers. Other types are converted, which holds one copy.

        Raises
        ------
        CheckpointError : the file is gone or has changed since it was opened.
        """
        raw = self._map()
        if self.dtype == "bfloat16":
            bits = raw.astype(np.uint32)
            bits <<= 16
            return np.ascontiguousarray(bits).view(np.float32)
        if raw.dtype == np.float32 and raw.flags.c_contiguous and raw.flags.aligned:
            return raw
        return np.ascontiguousarray(raw, dtype=np.float32)

    def read_integers(self) -> NDArray[np.int64]:
        """Return an integer tensor as int64, C-contiguous."""
        if not self.is_integer:
            raise CheckpointError(f"{self.file.path}: found a tensor of {self.dtype}, wanted integers")
        return np.ascontiguousarray(self._map(), dtype=np.int64)

    def _map(self) -> NDArray[Any]:
        dtype = DTYPES[self.dtype]
        count = extent(self.shape, self.strides)
        if count == 0:
            return np.zeros(self.shape, dtype)
        path = self.file.path
        aligned_start = self.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        skipped = self.start - aligned_start
        try:
            with path.open("rb") as stream:
                if FileStamp.of(path) != self.file:
                    raise CheckpointError(f"{path} has changed since it was opened; open it again")
                memory = mmap.mmap(
                    stream.fileno(),
                    skipped + count * dtype.itemsize,
                    access=mmap.ACCESS_COPY,
                    offset=aligned_start,
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} can't be mapped: {error}") from error
        flat = np.frombuffer(memory, dtype, count, skipped)
        steps = [step * dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps)


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements lie between a tensor's first and last one, both included; 0 for an empty tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
