"""Host memory as a device: what the driver runs on where there is no GPU, and in tests."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError, CudaError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray, Region, checked_values
from trt_vqgan.runtime.device.interface import DeviceKind

ALIGNMENT_BYTES = 256  # as device memory has it, so that kernels under a shim may rely on it


class HostMemory:
    """A NumPy buffer as `Memory`."""

    def __init__(self, nbytes: int) -> None:
        buffer = np.empty(nbytes + ALIGNMENT_BYTES, dtype=np.uint8)
        start = -buffer.ctypes.data % ALIGNMENT_BYTES
        self._bytes: npt.NDArray[np.uint8] | None = buffer[start : start + nbytes]
        self.address = buffer.ctypes.data + start
        self.nbytes = nbytes

    @property
    def is_free(self) -> bool:
        """Whether it was given back."""
        return self._bytes is None

    def free(self) -> None:
        """Drop the buffer."""
        self._bytes = None

    def part(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Return the NumPy view of an array that lies in it."""
        array.check_alive()
        assert self._bytes is not None
        start = array.address - self.address
        return self._bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)


class HostDevice:
    """NumPy memory behind the interface of a device. Everything is done when its call returns.

    It has no kernels: operations on it are NumPy's, through `view`.
    """

    index = 0
    stream = 0
    multiprocessors = 1
    shared_limit = 99 << 10

    @property
    def kind(self) -> DeviceKind:
        """Where its memory is."""
        return "cpu"

    def describe(self) -> str:
        """Return what it is, for people."""
        return "CPU"

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Return a context in which this thread may use the device."""
        yield

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return an array with anything in it."""
        kind = np.dtype(dtype)
        try:
            memory = HostMemory(math.prod(shape) * kind.itemsize)
        except MemoryError as error:
            raise CudaError(
                f"out of memory: {kind} {shape} doesn't fit; give a smaller --batch-size or picture"
            ) from error
        return DeviceArray(memory, memory.address, shape, kind)

    def view(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Return an array of this device as a NumPy view of its memory."""
        part: npt.NDArray[Any] = array.memory.part(array)  # type: ignore[attr-defined]
        return part

    def upload(self, target: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Copy ``values`` into ``target``."""
        self.view(target)[...] = checked_values(target, values)

    def download(self, source: DeviceArray) -> npt.NDArray[Any]:
        """Return a copy."""
        return self.view(source).copy()

    def fill_zero(self, target: DeviceArray) -> None:
        """Set every byte to zero."""
        self.view(target).reshape(-1).view(np.uint8)[:] = 0

    def copy(self, target: Region, source: Region, *, width: int, rows: int = 1, planes: int = 1) -> None:
        """Copy ``planes`` x ``rows`` runs of ``width`` bytes."""
        if not width * rows * planes:
            return
        self._runs(target, width, rows, planes)[...] = self._runs(source, width, rows, planes)

    def _runs(self, region: Region, width: int, rows: int, planes: int) -> npt.NDArray[np.uint8]:
        region.check_extent(planes, rows, width)
        flat = self.view(region.array).reshape(-1).view(np.uint8)[region.offset :]
        strides = (region.plane_rows * region.pitch, region.pitch, 1)
        return np.lib.stride_tricks.as_strided(flat, (planes, rows, width), strides)

    def load_kernels(self, image: bytes) -> None:
        """Refuse: there is nothing here that runs them."""
        raise BackendUnavailableError("kernels need a GPU; on the CPU their NumPy definitions run")

    def launch(self, launch: Launch) -> None:
        """Refuse: there is nothing here that runs kernels."""
        raise BackendUnavailableError(f"kernel {launch.kernel}: needs a GPU; on the CPU its NumPy definition runs")

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool = False) -> None:
        """Write ``x`` (M, K) times ``weight`` (N, K) transposed to ``out`` (M, N), float32 inside."""
        product = self.view(x).astype(np.float32) @ self.view(weight).astype(np.float32).T
        result = self.view(out)
        result[...] = product + result if accumulate else product

    def capture(self, issue: Callable[[], None]) -> RememberedCalls:
        """Return ``issue`` itself: here a graph is a call that is made again."""
        return RememberedCalls(issue)

    def record(self) -> Done:
        """Return a point that is always reached."""
        return Done()

    def synchronize(self) -> None:
        """Return: all work is done."""

    def wait_for_stream(self, stream: int) -> None:
        """Refuse: there are no streams here."""
        raise BackendUnavailableError(f"stream {stream:#x}: the CPU has no streams; give no stream")

    def let_stream_wait(self, stream: int) -> None:
        """Refuse: there are no streams here."""
        self.wait_for_stream(stream)

    def close(self) -> None:
        """Return: memory goes with its arrays."""


class RememberedCalls:
    """A graph of the host: the call that would be captured, made anew at each replay."""

    def __init__(self, issue: Callable[[], None]) -> None:
        self._issue: Callable[[], None] | None = issue

    def replay(self) -> None:
        """Make the call."""
        if self._issue is None:
            raise CudaError("graph: it was freed, so it can't be replayed")
        self._issue()

    def free(self) -> None:
        """Forget the call."""
        self._issue = None


class Done:
    """A point that is always reached."""

    def wait(self) -> None:
        """Return at once."""
