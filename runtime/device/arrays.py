"""Arrays in device memory: an address, a shape, a dtype, and the memory that they keep alive."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import CudaError, ShapeError


class Memory(Protocol):
    """A piece of device memory. It is freed by `free`, or when nothing refers to it any more."""

    @property
    def address(self) -> int:
        """Its first byte."""

    @property
    def nbytes(self) -> int:
        """Its size."""

    @property
    def is_free(self) -> bool:
        """Whether it was given back; nothing may use it then."""

    def free(self) -> None:
        """Give it back; a second call does nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-contiguous array in device memory, or a part of one.

    Attributes
    ----------
    memory : what it lies in, and keeps alive.
    address : its first byte.
    shape, dtype : as in NumPy.
    """

    memory: Memory
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self.size * self.dtype.itemsize

    @property
    def pointer(self) -> np.uint64:
        """Its address as a kernel's argument.

        Raises
        ------
        CudaError : its memory was freed.
        """
        self.check_alive()
        return np.uint64(self.address)

    def check_alive(self) -> None:
        """Raise CudaError where the memory was freed."""
        if self.memory.is_free:
            raise CudaError(f"device array {self.dtype} {self.shape}: its memory was freed, so it can't be used")

    def rows(self, start: int, stop: int) -> DeviceArray:
        """Return the part ``[start:stop]`` along the first axis."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ShapeError(f"device array {self.shape}: found rows {start} to {stop}, wanted them within it")
        step = self.nbytes // self.shape[0] if self.shape[0] else 0
        shape = (stop - start, *self.shape[1:])
        return DeviceArray(self.memory, self.address + start * step, shape, self.dtype)

    def item(self, index: int) -> DeviceArray:
        """Return the part ``[index]``."""
        part = self.rows(index, index + 1)
        return part.reshape(*part.shape[1:])

    def reshape(self, *shape: int) -> DeviceArray:
        """Return the same numbers under another shape of the same size."""
        if math.prod(shape) != self.size:
            raise ShapeError(f"device array {self.shape}: found {shape}, wanted a shape of {self.size} numbers")
        return DeviceArray(self.memory, self.address, shape, self.dtype)

    def leading(self, *shape: int) -> DeviceArray:
        """Return the first numbers of it under a shape of at most its size: a smaller array in the same memory."""
        if math.prod(shape) > self.size:
            raise ShapeError(f"device array {self.shape}: found {shape}, wanted a shape of at most {self.size} numbers")
        return DeviceArray(self.memory, self.address, shape, self.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region:
    """Equally long runs of bytes inside an array, at equal distances: planes of rows.

    Attributes
    ----------
    array : what they lie in.
    offset : bytes before the first.
    pitch : bytes from a row to the next.
    plane_rows : rows (of ``pitch`` bytes) from a plane to the next.
    """

    array: DeviceArray
    offset: int = 0
    pitch: int
    plane_rows: int = 0

    def check_extent(self, planes: int, rows: int, width: int) -> None:
        """Raise ShapeError unless ``planes`` x ``rows`` runs of ``width`` bytes lie inside the array."""
        last = self.offset + ((planes - 1) * self.plane_rows + rows - 1) * self.pitch + width
        fits = self.offset >= 0 and last <= self.array.nbytes and (width <= self.pitch or planes * rows == 1)
        if planes > 1:
            fits = fits and self.plane_rows >= rows
        if not fits:
            raise ShapeError(
                f"copy of {planes}x{rows} runs of {width} bytes at {self.offset}, pitch {self.pitch}, planes of "
                f"{self.plane_rows} rows: leaves the array {self.array.dtype} {self.array.shape} or overlaps itself"
            )


def checked_values(array: DeviceArray, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``values`` contiguous; raise ShapeError unless their shape and dtype are those of ``array``."""
    if values.shape != array.shape or values.dtype != array.dtype:
        raise ShapeError(f"upload: found {values.dtype} {values.shape}, wanted {array.dtype} {array.shape}")
    return np.ascontiguousarray(values)
