"""A GPU's device against a recording fake: order of calls, everything given back, errors as clear lines."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.runtime.device.fake_cuda import STREAM, FakeCuda
from trt_vqgan.errors import BackendUnavailableError, CudaError, ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device import libraries
from trt_vqgan.runtime.device.arrays import Region
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.device.interface import upload_new, zeros


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(fake: FakeCuda) -> Iterator[CudaDevice]:
    opened = CudaDevice(libraries=fake.libraries())
    fake.calls.clear()
    yield opened
    opened.close()
    gc.collect()
    assert fake.leaks() == {}
    assert fake.depth == 0


def launch(shared_bytes: int = 0, kernel: str = "scale") -> Launch:
    return Launch(
        kernel=kernel,
        grid=(2, 1, 1),
        block=(64, 1, 1),
        shared_bytes=shared_bytes,
        arguments=(np.uint64(7), np.int32(3)),
    )


def test_opening_and_closing_in_order(fake: FakeCuda) -> None:
    device = CudaDevice(libraries=fake.libraries())
    assert device.describe() == "NVIDIA Fake (cuda:0, sm_90)"
    assert fake.names() == ["cuInit", "Device", "retain_primary_context", "push", "Stream", "DeviceMemoryPool", "pop"]
    assert ("Stream", 1) in fake.calls, "the stream must not wait for the default one"
    fake.calls.clear()
    device.close()
    device.close()
    assert fake.names() == ["push", "stream.synchronize", "stop_holding", "pop", "detach"]
    gc.collect()
    assert fake.leaks() == {}
    with pytest.raises(CudaError, match="was closed"), device.active():
        pass


def test_work_is_issued_to_the_stream_in_order(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        array = upload_new(device, np.arange(6, dtype=np.int32))
        cleared = zeros(device, (4,), np.float16)
        device.load_kernels(b"fatbin")
        device.launch(launch())
        device.launch(launch())
        device.download(array)
        device.record().wait()
    assert fake.names() == [
        "push",
        "cuMemAlloc",
        "htod",
        "cuMemAlloc",
        "memset",
        "cuModuleLoadDataEx",
        "get_function",
        "launch",
        "launch",
        "dtoh",
        "stream.synchronize",
        "Event",
        "event.record",
        "event.synchronize",
        "pop",
    ]
    assert ("launch", "scale", (np.uint64(7), np.int32(3)), (2, 1, 1), (64, 1, 1), 0, STREAM) in fake.calls
    assert ("memset", cleared.address, 0, 8, STREAM) in fake.calls


def test_large_shared_memory_is_asked_for_once(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        device.load_kernels(b"fatbin")
        for size in (48 << 10, 96 << 10, 96 << 10, 64 << 10, 100 << 10):
            device.launch(launch(size))
    asked = [call for call in fake.calls if call[0] == "set_attribute"]
    assert [call[3] for call in asked] == [96 << 10, 100 << 10]


def test_a_missing_kernel_is_named(device: CudaDevice) -> None:
    with device.active():
        device.load_kernels(b"fatbin")
        with pytest.raises(CudaError, match="no loaded module has the kernel absent"):
            device.launch(launch(kernel="absent"))


def test_freed_memory_goes_back_once_and_is_refused_afterwards(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        array = device.allocate((8,), np.float32)
        part = array.rows(2, 4)
        array.memory.free()
        array.memory.free()
        for use in (lambda: device.fill_zero(part), lambda: device.download(array), lambda: part.pointer):
            with pytest.raises(CudaError, match="memory was freed"):
                use()
        device.allocate((1,), np.uint8)
    assert fake.names().count("allocation.free") == 1


def test_arrays_dropped_anywhere_are_freed_under_a_context(device: CudaDevice, fake: FakeCuda) -> None:
    """Also in a thread that has no context; the fake refuses a free without one."""
    with device.active():
        kept = [device.allocate((8,), np.float32) for _ in range(3)]
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert "allocation.free" not in fake.names()
    with device.active():
        pass
    assert fake.names().count("allocation.free") == 3


def test_everything_is_freed_after_an_error_in_the_middle(fake: FakeCuda) -> None:
    device = CudaDevice(libraries=fake.libraries())
    fake.failing["launch"] = "an illegal memory access was encountered"

    def work() -> None:
        with device.active():
            upload_new(device, np.arange(6))
            device.load_kernels(b"fatbin")
            device.launch(launch())

    with pytest.raises(CudaError, match="a kernel failed while launching scale.*can't be used by this process"):
        work()
    assert fake.depth == 0
    fake.failing["stream.synchronize"] = "an illegal memory access was encountered"
    with pytest.raises(CudaError, match="while waiting for the GPU"):
        device.close()
    gc.collect()
    assert fake.leaks() == {}


def test_closing_frees_arrays_that_are_still_held() -> None:
    fake = FakeCuda()
    device = CudaDevice(libraries=fake.libraries())
    with device.active():
        array = device.allocate((8,), np.float32)
    device.close()
    assert "allocation" not in fake.leaks()
    with pytest.raises(CudaError, match="memory was freed"):
        array.check_alive()


def test_copies_between_arrays(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        source, target = device.allocate((2, 3, 4, 8), np.uint8), device.allocate((2, 5, 6, 8), np.uint8)
        there = Region(array=target, offset=8, pitch=48, plane_rows=5)
        here = Region(array=source, offset=32, pitch=32, plane_rows=3)
        device.copy(there, here, width=16, rows=2, planes=2)
        with pytest.raises(ShapeError, match="leaves the array"):
            device.copy(there, here, width=16, rows=4, planes=2)
    (copied,) = [call for call in fake.calls if call[0] == "Memcpy3D"]
    assert copied[1] == {
        "source": source.address + 32,
        "target": target.address + 8,
        "src_pitch": 32,
        "dst_pitch": 48,
        "src_height": 3,
        "dst_height": 5,
        "width_in_bytes": 16,
        "height": 2,
        "depth": 2,
    }


def test_wrong_values_are_not_uploaded(device: CudaDevice) -> None:
    with device.active():
        array = device.allocate((3,), np.int32)
        with pytest.raises(ShapeError, match="wanted int32"):
            device.upload(array, np.zeros(3))


# --- graphs and streams -----------------------------------------------------------------------------------------------


def test_a_graph_is_captured_replayed_and_freed(device: CudaDevice, fake: FakeCuda) -> None:
    collecting = []
    with device.active():
        device.load_kernels(b"fatbin")
        device.launch(launch())
        fake.calls.clear()

        def issue() -> None:
            collecting.append(gc.isenabled())
            device.launch(launch())

        graph = device.capture(issue)
        graph.replay()
        graph.replay()
        graph.free()
        graph.free()
        with pytest.raises(CudaError, match="was freed"):
            graph.replay()
    assert fake.names() == [
        "cuStreamBeginCapture",
        "launch",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
        "cuGraphUpload",
        "cuGraphLaunch",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
        "pop",
    ]
    assert ("cuStreamBeginCapture", STREAM, 1) in fake.calls, "the mode must be thread-local"
    assert collecting == [False]
    assert gc.isenabled()


def test_a_failed_capture_is_ended(device: CudaDevice, fake: FakeCuda) -> None:
    def issue() -> None:
        raise ValueError("in the middle")

    with device.active(), pytest.raises(ValueError, match="in the middle"):
        device.capture(issue)
    assert fake.names()[1:-1] == ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphDestroy"]
    assert gc.isenabled()


@pytest.mark.parametrize(
    "failing", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphUpload"]
)
def test_an_error_while_capturing_leaves_nothing(device: CudaDevice, fake: FakeCuda, failing: str) -> None:
    fake.failing |= {failing: "900", "status": "operation not permitted when stream is capturing"}
    with device.active(), pytest.raises(CudaError, match="a CUDA graph can't hold"):
        device.capture(lambda: None)
    assert fake.leaks().keys() <= {"context", "stream"}


def test_memory_is_never_freed_while_capturing(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        array = device.allocate((4,), np.float32)

        def issue() -> None:
            nonlocal array
            array = None  # type: ignore[assignment]

        device.capture(issue)
        assert "allocation.free" not in fake.names()


def test_a_callers_stream_is_ordered_by_events(device: CudaDevice, fake: FakeCuda) -> None:
    with device.active():
        device.wait_for_stream(99)
        device.let_stream_wait(99)
    recorded = [call[2] for call in fake.calls if call[0] == "cuEventRecord"]
    waiting = [call[1] for call in fake.calls if call[0] == "cuStreamWaitEvent"]
    assert (recorded, waiting) == ([99, STREAM], [STREAM, 99])
    assert "event" not in fake.leaks()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text", "kind", "line"),
    [
        ("cuInit", "no CUDA-capable device is detected", BackendUnavailableError, "sees no GPU"),
        (
            "cuInit",
            "system has unsupported display driver / cuda driver combination",
            BackendUnavailableError,
            "driver is too old.*install a newer NVIDIA driver",
        ),
        (
            "cuInit",
            "unknown error",
            CudaError,
            "cuda:0: failed while starting the driver: cuInit failed: unknown error",
        ),
        ("retain_primary_context", "out of memory", CudaError, "NVIDIA Fake: out of GPU memory while opening the GPU"),
        ("Stream", "out of memory", CudaError, "out of GPU memory"),
    ],
)
def test_errors_while_opening(call: str, text: str, kind: type[Exception], line: str) -> None:
    fake = FakeCuda()
    fake.failing[call] = text
    with pytest.raises(kind, match=line):
        CudaDevice(libraries=fake.libraries())
    gc.collect()
    assert fake.leaks() == {}
    assert fake.depth == 0


@pytest.mark.parametrize(
    ("fake", "index", "line"),
    [
        (FakeCuda(devices=0), 0, "there is no GPU on this machine"),
        (FakeCuda(devices=2), 2, "cuda:2: there is cuda:0 to cuda:1 on this machine"),
        (FakeCuda(version=11040), 0, "supports CUDA 11.4, wanted 12.0 or newer; install a newer"),
        (FakeCuda(architecture=(7, 5)), 0, "NVIDIA Fake is sm_75, wanted sm_80"),
    ],
)
def test_machines_that_cannot_run_it(fake: FakeCuda, index: int, line: str) -> None:
    with pytest.raises(BackendUnavailableError, match=line):
        CudaDevice(index, libraries=fake.libraries())
    assert fake.leaks() == {}


def test_out_of_memory_says_how_much_there_is(device: CudaDevice, fake: FakeCuda) -> None:
    fake.failing["cuMemAlloc"] = "out of memory"
    with device.active(), pytest.raises(CudaError, match=r"allocating 40.0 MB, 3 of 80000 MB are free; give a smaller"):
        device.allocate((10_000_000,), np.float32)


def test_kernels_of_another_architecture(device: CudaDevice, fake: FakeCuda) -> None:
    fake.failing["cuModuleLoadDataEx"] = "no kernel image is available for execution on the device"
    with device.active(), pytest.raises(BackendUnavailableError, match=r"\(sm_90\): the kernels were not built for it"):
        device.load_kernels(b"fatbin")


def test_a_driver_older_than_the_kernels(device: CudaDevice, fake: FakeCuda) -> None:
    fake.failing["cuModuleLoadDataEx"] = "the provided PTX was compiled with an unsupported toolchain."
    with device.active(), pytest.raises(BackendUnavailableError, match="driver is too old for these kernels"):
        device.load_kernels(b"fatbin")


def test_a_machine_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "DRIVER_LIBRARIES", ("libcuda_absent.so.1", "absent.dll"))
    with pytest.raises(
        BackendUnavailableError, match=r"no NVIDIA driver on this machine \(libcuda_absent.so.1 is missing\)"
    ):
        libraries.load_cuda_libraries()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "load_driver_library", lambda: None)
    monkeypatch.setitem(__import__("sys").modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailableError, match=r"pycuda can't be imported .*pip install 'trt-vqgan\[gpu\]'"):
        libraries.load_cuda_libraries()
