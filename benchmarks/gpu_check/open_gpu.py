"""The runtime's device with our kernels on it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from trt_vqgan.errors import MissingDependencyError
from trt_vqgan.kernels.building import kernel_images
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.native.build import cache_folder


@contextlib.contextmanager
def open_gpu(index: int) -> Iterator[CudaDevice]:
    """Return a GPU with the kernels loaded, active until the block ends, and closed then."""
    device = CudaDevice(index)
    try:
        with device.active():
            for image in kernel_images(cache_folder(), architecture=architecture(device)).images:
                device.load_kernels(image)
            yield device
    finally:
        device.close()


def architecture(device: CudaDevice) -> int:
    """Return its compute capability as one number, 90 for 9.0."""
    major, minor = device.architecture
    return 10 * major + minor


def need_torch() -> None:
    """Raise MissingDependencyError without torch, which measures times and is what they are compared with."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch is not installed; times are measured with its events, beside its own")
