"""Which NVIDIA GPUs are here, asked of the driver alone."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from trt_vqgan.errors import BackendUnavailableError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class LocalGpu:
    """A GPU: its number, name and compute capability."""

    index: int
    name: str
    compute_capability: tuple[int, int]

    @property
    def target(self) -> str:
        """Its architecture as engines are built for, as "sm86"."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"


def local_gpus() -> tuple[LocalGpu, ...]:
    """Return the GPUs that CUDA programs may use here, at least one.

    Raises
    ------
    BackendUnavailableError : no driver, one that fails, or no GPU.
    """
    try:
        driver = load_driver()
    except OSError:
        raise BackendUnavailableError(f"no NVIDIA driver on this machine ({_LIBRARY} is missing)") from None
    code = driver.cuInit(0)
    if code not in (0, _NO_DEVICE):
        raise BackendUnavailableError(f"the NVIDIA driver can't be used: cuInit gives error {code}")
    count = ctypes.c_int(0)
    if code == 0:
        _check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if count.value == 0:
        raise BackendUnavailableError("the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)")
    return tuple(_gpu(driver, index) for index in range(count.value))


def load_driver() -> Any:
    """Return the driver's library."""
    return ctypes.CDLL(_LIBRARY)


def _gpu(driver: Any, index: int) -> LocalGpu:
    device, numbers = ctypes.c_int(0), []
    _check(driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver.cuDeviceGetName(name, _NAME_BYTES, device), "cuDeviceGetName")
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int(0)
        _check(driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device), "cuDeviceGetAttribute")
        numbers.append(number.value)
    return LocalGpu(index=index, name=name.value.decode(), compute_capability=(numbers[0], numbers[1]))


def _check(code: int, call: str) -> None:
    if code != 0:
        raise BackendUnavailableError(f"the NVIDIA driver can't be used: {call} gives error {code}")
