"""A stand-in for pycuda and cuda-bindings that records every call and what is still alive, and can fail on demand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from trt_vqgan.runtime.device.libraries import CudaLibraries

STREAM = 0x5EED


class Error(Exception):
    """pycuda.driver.Error."""


class LogicError(Error):
    """pycuda.driver.LogicError."""


class MemoryError_(Error):
    """pycuda.driver.MemoryError."""


class FakeCuda:
    """Everything that a device may call, on one record.

    Attributes
    ----------
    calls : names and arguments in order.
    alive : kind and number of what was made and not given back.
    failing : text that the call of a name fails with.
    """

    def __init__(self, *, devices: int = 1, architecture: tuple[int, int] = (9, 0), version: int = 13000) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.alive: dict[str, set[int]] = {}
        self.failing: dict[str, str] = {}
        self.devices, self.architecture, self.version = devices, architecture, version
        self.depth = 0
        self._numbers = itertools.count(1)

    def note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.failing:
            text = self.failing[name]
            kind = MemoryError_ if "out of memory" in text else LogicError
            raise kind(f"{name} failed: {text}")

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def make(self, kind: str) -> int:
        number = next(self._numbers)
        self.alive.setdefault(kind, set()).add(number)
        return number

    def end(self, kind: str, number: int) -> None:
        self.alive[kind].remove(number)  # a second end fails

    def leaks(self) -> dict[str, int]:
        return {kind: len(left) for kind, left in self.alive.items() if left}

    def libraries(self) -> CudaLibraries:
        return CudaLibraries(driver=self._driver(), tools=self._tools(), bindings=FakeBindings(self))

    def _driver(self) -> Any:
        fake = self

        class Device:
            def __init__(self, index: int) -> None:
                fake.note("Device", index)

            @staticmethod
            def count() -> int:
                return fake.devices

            def name(self) -> str:
                return "NVIDIA Fake"

            def compute_capability(self) -> tuple[int, int]:
                return fake.architecture

            def get_attribute(self, attribute: str) -> int:
                return {"multiprocessors": 132, "shared": 227 << 10}[attribute]

            def retain_primary_context(self) -> Any:
                fake.note("retain_primary_context")
                return Context()

        class Context:
            def __init__(self) -> None:
                self._number = fake.make("context")

            def push(self) -> None:
                fake.note("push")
                fake.depth += 1

            def pop(self) -> None:
                fake.note("pop")
                fake.depth -= 1

            def detach(self) -> None:
                fake.note("detach")
                fake.end("context", self._number)

        class Stream:
            def __init__(self, flags: int) -> None:
                self._number = 0
                fake.note("Stream", flags)
                self.handle = STREAM
                self._number = fake.make("stream")

            def synchronize(self) -> None:
                fake.note("stream.synchronize")

            def __del__(self) -> None:
                if self._number:
                    fake.end("stream", self._number)

        class Event:
            def __init__(self, flags: int) -> None:
                fake.note("Event", flags)

            def record(self, stream: Any) -> None:
                fake.note("event.record", stream.handle)

            def synchronize(self) -> None:
                fake.note("event.synchronize")

        class Function:
            def __init__(self, name: str) -> None:
                self._name = name

            def set_attribute(self, attribute: str, value: int) -> None:
                fake.note("set_attribute", self._name, attribute, value)

            def __call__(self, *arguments: Any, grid: Any, block: Any, shared: int, stream: Any) -> None:
                fake.note("launch", self._name, arguments, grid, block, shared, stream.handle)

        class Module:
            def __init__(self) -> None:
                self._number = fake.make("module")

            def get_function(self, name: str) -> Function:
                fake.note("get_function", name)
                if name == "absent":
                    raise LogicError("cuModuleGetFunction failed: named symbol not found")
                return Function(name)

            def __del__(self) -> None:
                fake.end("module", self._number)

        class Memcpy3D:
            def set_src_device(self, address: int) -> None:
                self.source = address

            def set_dst_device(self, address: int) -> None:
                self.target = address

            def __call__(self, stream: Any) -> None:
                fake.note("Memcpy3D", vars(self), stream.handle)

        def init() -> None:
            fake.note("cuInit")

        def module_from_buffer(image: bytes) -> Module:
            fake.note("cuModuleLoadDataEx", len(image))
            return Module()

        return SimpleNamespace(
            Error=Error,
            LogicError=LogicError,
            MemoryError=MemoryError_,
            init=init,
            get_driver_version=lambda: fake.version,
            Device=Device,
            Stream=Stream,
            Event=Event,
            Memcpy3D=Memcpy3D,
            module_from_buffer=module_from_buffer,
            mem_get_info=lambda: (3_000_000, 80_000_000_000),
            memcpy_htod_async=lambda target, values, stream: fake.note("htod", target, values.nbytes, stream.handle),
            memcpy_dtoh_async=lambda values, source, stream: fake.note("dtoh", source, values.nbytes, stream.handle),
            memset_d8_async=lambda target, value, size, stream: fake.note("memset", target, value, size, stream.handle),
            device_attribute=SimpleNamespace(
                MULTIPROCESSOR_COUNT="multiprocessors", MAX_SHARED_MEMORY_PER_BLOCK_OPTIN="shared"
            ),
            event_flags=SimpleNamespace(DISABLE_TIMING=2),
            function_attribute=SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="max_dynamic_shared"),
        )

    def _tools(self) -> Any:
        fake = self

        class Allocation:
            def __init__(self, size: int) -> None:
                self._number = fake.make("allocation")
                self._size = size

            def __int__(self) -> int:
                return 0x7F0000000000 + (self._number << 20)

            def free(self) -> None:
                fake.note("allocation.free", int(self))
                assert fake.depth > 0, "freed without a context"
                fake.end("allocation", self._number)

        class DeviceMemoryPool:
            def __init__(self) -> None:
                fake.note("DeviceMemoryPool")
                assert fake.depth > 0, "a pool without a context"

            def allocate(self, size: int) -> Allocation:
                fake.note("cuMemAlloc", size)
                return Allocation(size)

            def stop_holding(self) -> None:
                fake.note("stop_holding")

        return SimpleNamespace(DeviceMemoryPool=DeviceMemoryPool)


MAKES = {"cuStreamEndCapture": "graph", "cuGraphInstantiate": "executable", "cuEventCreate": "event"}
ENDS = {"cuGraphDestroy": "graph", "cuGraphExecDestroy": "executable", "cuEventDestroy": "event"}


class FakeBindings:
    """cuda.bindings.driver: functions give (status, values…)."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake

    def CUstream(self, handle: int) -> int:
        return handle

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, self._fake.failing["status"].encode()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self._fake.calls.append((name, *arguments))
            if name in self._fake.failing:
                return (int(self._fake.failing[name]), None)
            if name in MAKES:
                return 0, self._fake.make(MAKES[name])
            if name in ENDS:
                self._fake.end(ENDS[name], arguments[0])
            return (0,)

        return call
