"""Which GPUs the driver tells of, and what is said where it tells of none."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from trt_vqgan import local_gpu
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.local_gpu import LocalGpu, local_gpus


class FakeDriver:
    """A driver with two GPUs."""

    def __init__(self, *, init: int = 0, count: int = 2, broken: str = "") -> None:
        self.init, self.count, self.broken = init, count, broken

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 10 + index
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], size: int, device: ctypes.c_int) -> int:
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: ctypes.c_int) -> int:
        number._obj.value = {75: 8 + device.value - 10, 76: 6}[attribute]
        return 999 if self.broken else 0


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_gpu, "load_driver", FakeDriver)
    first, second = local_gpus()
    assert first == LocalGpu(index=0, name="GPU 10", compute_capability=(8, 6))
    assert (first.target, second.target) == ("sm86", "sm96")


def missing() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (missing, "no NVIDIA driver"),
        (lambda: FakeDriver(init=100), "finds no GPU"),
        (lambda: FakeDriver(count=0), "finds no GPU"),
        (lambda: FakeDriver(init=803), "cuInit gives error 803"),
        (lambda: FakeDriver(broken="attribute"), "cuDeviceGetAttribute gives error 999"),
    ],
)
def test_none(monkeypatch: pytest.MonkeyPatch, load: Any, message: str) -> None:
    monkeypatch.setattr(local_gpu, "load_driver", load)
    with pytest.raises(BackendUnavailableError, match=message):
        local_gpus()
