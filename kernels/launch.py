"""One launch of one kernel, as plain data: what the driver hands to CUDA and the tests to their CPU shim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_vqgan.errors import ShapeError

Extent = tuple[int, int, int]

MAX_THREADS = 1024
"""Most threads of a block."""

_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A kernel and all that its launch needs.

    Parameters
    ----------
    kernel : its ``extern "C"`` symbol.
    grid, block : blocks and threads along (x, y, z).
    shared_bytes : dynamic shared memory of a block.
    arguments : one NumPy scalar a parameter, in order: uint64 for a pointer, else int32, uint32, float32 or uint64 as
        the parameter is declared.

    Raises
    ------
    ShapeError : an extent that no CUDA device takes, or an argument that is no NumPy scalar.
    """

    kernel: str
    grid: Extent
    block: Extent
    shared_bytes: int
    arguments: tuple[np.generic, ...]

    def __post_init__(self) -> None:
        for what, extent, limit in (("grid", self.grid, _MAX_GRID), ("block", self.block, _MAX_BLOCK)):
            if len(extent) != 3 or any(not 1 <= size <= most for size, most in zip(extent, limit, strict=True)):
                raise ShapeError(f"launch of {self.kernel}: found {what} {extent}, wanted 1 to {limit}")
        if self.threads > MAX_THREADS:
            raise ShapeError(
                f"launch of {self.kernel}: found {self.threads} threads a block, wanted at most {MAX_THREADS}"
            )
        if self.shared_bytes < 0:
            raise ShapeError(f"launch of {self.kernel}: found {self.shared_bytes} bytes of shared memory")
        for index, argument in enumerate(self.arguments):
            if not isinstance(argument, np.generic):
                raise ShapeError(
                    f"launch of {self.kernel}: argument {index} is {type(argument).__name__}, wanted a NumPy scalar of "
                    "the parameter's type"
                )

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return self.block[0] * self.block[1] * self.block[2]
