"""Every kernel on the hardware against its definition."""

from __future__ import annotations

import ctypes

from trt_vqgan.benchmarks.gpu_check.kernel_checks import FULL, TINY, kernel_checks
from trt_vqgan.benchmarks.gpu_check.open_gpu import open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.kernel_cases.runner import DeviceRunner
from trt_vqgan.errors import CudaError
from trt_vqgan.runtime.device.interface import Device

_SHARED_PER_BLOCK_OPTIN = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


def run(records: Records, settings: Settings, *, tiny: bool = False) -> None:
    """Check all kernels."""
    with open_gpu(settings.gpu) as device:
        check_kernels(records, device, shared_limit=shared_limit(settings.gpu), tiny=tiny)


def check_kernels(records: Records, device: Device, *, shared_limit: int, tiny: bool) -> None:
    """Check all kernels on a device that has them loaded, each with arrays of its own."""
    extent = TINY if tiny else FULL
    for name, check in kernel_checks(extent, multiprocessors=device.multiprocessors, shared_limit=shared_limit):
        records.verify(name, lambda check=check: check(DeviceRunner(device)))  # type: ignore[misc]


def shared_limit(gpu: int) -> int:
    """Return the dynamic shared memory in bytes that a block may have."""
    driver = ctypes.CDLL("libcuda.so.1")
    value = ctypes.c_int(0)
    status = driver.cuDeviceGetAttribute(ctypes.byref(value), _SHARED_PER_BLOCK_OPTIN, ctypes.c_int(gpu))
    if status:
        raise CudaError(f"cuda:{gpu}: the shared memory of a block can't be asked for (status {status})")
    return value.value
