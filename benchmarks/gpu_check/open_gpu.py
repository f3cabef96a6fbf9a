"""The runtime's device with our kernels on it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from trt_vqgan.errors import MissingDependencyError
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.gpu.kernels import load_kernels


@contextlib.contextmanager
def open_gpu(index: int) -> Iterator[CudaDevice]:
    """Return a GPU with the kernels loaded, active until the block ends, and closed then."""
    device = CudaDevice(index)
    try:
        with device.active():
            load_kernels(device)
            yield device
    finally:
        device.close()


def need_torch() -> None:
    """Raise MissingDependencyError without torch, which measures times and is what they are compared with."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch is not installed; times are measured with its events, beside its own")
