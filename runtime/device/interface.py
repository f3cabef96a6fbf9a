"""What a device can do, whatever it is: a GPU, or host memory that stands in for one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray, Region

DeviceKind = Literal["cpu", "cuda"]


class Event(Protocol):
    """A point in a device's order of work."""

    def wait(self) -> None:
        """Return once all work before the point is done."""


class Graph(Protocol):
    """A fixed sequence of work that is issued by one call, again and again."""

    def replay(self) -> None:
        """Issue it once more, behind what was issued before."""

    def free(self) -> None:
        """Give it back; a second call does nothing."""


class Device(Protocol):
    """One device and one order of work on it. Every call is made inside `active`.

    Work runs in the order in which it is issued, possibly later than the call returns; `download`, `synchronize` and
    `Event.wait` wait for it.
    """

    @property
    def kind(self) -> DeviceKind:
        """Where its memory is."""

    @property
    def index(self) -> int:
        """Its number among its kind."""

    @property
    def stream(self) -> int:
        """Handle of the stream that its work runs on; 0 where there is none."""

    @property
    def multiprocessors(self) -> int:
        """How many blocks of a kernel it needs at least to be busy."""

    @property
    def shared_limit(self) -> int:
        """Dynamic shared memory in bytes that a block may have."""

    def describe(self) -> str:
        """Return what it is, for people."""

    def active(self) -> AbstractContextManager[None]:
        """Return a context in which this thread may use the device; may be nested."""

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return an array with anything in it. Raises CudaError where memory is out."""

    def upload(self, target: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Copy ``values`` from the host; they may be changed once this returns."""

    def download(self, source: DeviceArray) -> npt.NDArray[Any]:
        """Return a copy on the host, once all work issued before is done."""

    def fill_zero(self, target: DeviceArray) -> None:
        """Set every byte to zero."""

    def copy(self, target: Region, source: Region, *, width: int, rows: int = 1, planes: int = 1) -> None:
        """Copy ``planes`` x ``rows`` runs of ``width`` bytes between arrays of the device."""

    def load_kernels(self, image: bytes) -> None:
        """Load a module, whose kernels `launch` then finds."""

    def launch(self, launch: Launch) -> None:
        """Run a kernel."""

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool = False) -> None:
        """Write ``x`` (M, K) times ``weight`` (N, K) transposed to ``out`` (M, N), float32 inside.

        ``accumulate`` adds it to what ``out`` holds.
        """

    def capture(self, issue: Callable[[], None]) -> Graph:
        """Return what ``issue`` issues as a graph, without running it. It may not allocate, free or wait."""

    def record(self) -> Event:
        """Return the point behind all that was issued."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def wait_for_stream(self, stream: int) -> None:
        """Let work issued from now on run behind what ``stream`` (a caller's handle) holds now."""

    def let_stream_wait(self, stream: int) -> None:
        """Let what is put into ``stream`` from now on run behind the work issued so far."""

    def close(self) -> None:
        """Give everything back; a second call does nothing."""


def upload_new(device: Device, values: npt.NDArray[Any]) -> DeviceArray:
    """Return a new array that holds ``values``."""
    array = device.allocate(values.shape, values.dtype)
    device.upload(array, values)
    return array


def whole(array: DeviceArray) -> Region:
    """Return all bytes of an array as one run."""
    return Region(array=array, pitch=max(array.nbytes, 1))


def zeros(device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
    """Return a new array of zeros."""
    array = device.allocate(shape, np.dtype(dtype))
    device.fill_zero(array)
    return array
