"""What runs a kernel on NumPy arrays, whatever it is."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device, upload_new

Scalar = TypeVar("Scalar", bound=np.generic)


class KernelRunner(Protocol):
    """Holds arrays where kernels can read them, and launches kernels."""

    def place(self, values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return a copy of ``values`` that kernels may read and write; it shows what they wrote after each launch."""

    def address(self, array: npt.NDArray[Any]) -> np.uint64:
        """Return where kernels find an array that `place` returned."""

    def launch(self, launch: Launch, *, seed: int = 0) -> None:
        """Run a kernel to its end; ``seed`` chooses the order of blocks and threads where that can be chosen."""


class DeviceRunner:
    """Runs kernels on a device of the runtime. Every array is copied there before, and back after each launch.

    Parameters
    ----------
    device : with the kernels loaded, inside ``active``.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._mirrors: dict[int, tuple[npt.NDArray[Any], DeviceArray]] = {}

    def place(self, values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return a copy that is mirrored on the device."""
        array = np.array(values, order="C")
        self._mirrors[id(array)] = array, upload_new(self._device, array)
        return array

    def address(self, array: npt.NDArray[Any]) -> np.uint64:
        """Return the mirror's address."""
        return self._mirrors[id(array)][1].pointer

    def launch(self, launch: Launch, *, seed: int = 0) -> None:
        """Copy there, run, copy back. The hardware chooses the order."""
        filled = [(array, mirror) for array, mirror in self._mirrors.values() if array.nbytes]
        for array, mirror in filled:
            self._device.upload(mirror, array)
        self._device.launch(launch)
        for array, mirror in filled:
            array[...] = self._device.download(mirror)
