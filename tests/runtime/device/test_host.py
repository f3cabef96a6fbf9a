"""Host memory behind the interface of a device, and arrays handed over by DLPack."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.runtime.device.fake_cuda import FakeCuda
from trt_vqgan.errors import BackendUnavailableError, CudaError, ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device import dlpack
from trt_vqgan.runtime.device.arrays import Region
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.device.dlpack import Lent, take
from trt_vqgan.runtime.device.host import ALIGNMENT_BYTES, HostDevice
from trt_vqgan.runtime.device.interface import upload_new, whole, zeros


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


def test_values_go_in_and_come_out(device: HostDevice) -> None:
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    array = upload_new(device, values)
    assert array.address % ALIGNMENT_BYTES == 0
    np.testing.assert_array_equal(device.download(array), values)
    np.testing.assert_array_equal(device.download(array.item(1).rows(1, 3)), values[1, 1:3])
    np.testing.assert_array_equal(device.download(array.leading(5)), np.arange(5))
    assert not device.download(zeros(device, (3,), np.uint64)).any()
    with pytest.raises(ShapeError, match="wanted them within it"):
        array.rows(1, 3)
    with pytest.raises(ShapeError, match="at most 24 numbers"):
        array.leading(25)


def test_regions_are_copied(device: HostDevice) -> None:
    values = np.random.default_rng(0).integers(0, 99, (2, 3, 4, 5), dtype=np.int32)
    source, target = upload_new(device, values), zeros(device, (2, 4, 6, 5), np.int32)
    wanted = np.zeros((2, 4, 6, 5), dtype=np.int32)
    wanted[:, 1:3, :2] = values[:, :2, :2]
    here = Region(array=source, pitch=4 * 20, plane_rows=3)
    there = Region(array=target, offset=4 * 30, pitch=4 * 30, plane_rows=4)
    device.copy(there, here, width=40, rows=2, planes=2)
    np.testing.assert_array_equal(device.download(target), wanted)
    with pytest.raises(ShapeError, match="leaves the array"):
        device.copy(there, here, width=40, rows=4, planes=2)
    device.copy(whole(target), whole(target), width=0)


def test_freed_memory_is_refused(device: HostDevice) -> None:
    array = zeros(device, (4,), np.int32)
    part = array.rows(1, 2)
    array.memory.free()
    with pytest.raises(CudaError, match="memory was freed"):
        device.download(part)
    graph = device.capture(lambda: None)
    graph.free()
    with pytest.raises(CudaError, match="was freed"):
        graph.replay()


def test_a_graph_is_a_call_made_again(device: HostDevice) -> None:
    array = zeros(device, (1,), np.int32)

    def issue() -> None:
        device.view(array)[0] += 1

    graph = device.capture(issue)
    assert device.view(array)[0] == 0, "capturing must not run anything"
    graph.replay()
    graph.replay()
    assert device.view(array)[0] == 2


@pytest.mark.parametrize("accumulate", [False, True])
def test_products(device: HostDevice, accumulate: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 8)).astype(np.float16), rng.standard_normal((5, 8)).astype(np.float16)
    before = rng.standard_normal((3, 5)).astype(np.float32)
    out = upload_new(device, before)
    device.gemm(upload_new(device, x), upload_new(device, weight), out, accumulate=accumulate)
    wanted = x.astype(np.float32) @ weight.astype(np.float32).T + (before if accumulate else 0)
    np.testing.assert_allclose(device.download(out), wanted, atol=1e-6)


def test_there_are_no_kernels_and_no_streams(device: HostDevice) -> None:
    launch = Launch(kernel="k", grid=(1, 1, 1), block=(1, 1, 1), shared_bytes=0, arguments=())
    for use in (lambda: device.launch(launch), lambda: device.load_kernels(b""), lambda: device.let_stream_wait(3)):
        with pytest.raises(BackendUnavailableError):
            use()


# --- DLPack -----------------------------------------------------------------------------------------------------------


def test_a_lent_array_shares_memory_and_lives_as_long_as_its_taker(device: HostDevice) -> None:
    array = upload_new(device, np.arange(6, dtype=np.float32).reshape(2, 3))
    view = device.view(array)
    taken = np.from_dlpack(Lent(device, array))
    view[1, 2] = 9
    assert taken[1, 2] == 9
    del array, view
    gc.collect()
    assert len(dlpack._lent) == 1
    np.testing.assert_array_equal(taken, [[0, 1, 2], [3, 4, 9]])
    del taken
    gc.collect()
    assert not dlpack._lent


def test_a_capsule_that_nobody_takes_keeps_nothing(device: HostDevice) -> None:
    capsule = Lent(device, zeros(device, (3,), np.int32)).__dlpack__()
    assert len(dlpack._lent) == 1
    del capsule
    gc.collect()
    assert not dlpack._lent


def test_a_taken_array_shares_memory_and_is_given_back_once(device: HostDevice) -> None:
    lent = Lent(device, upload_new(device, np.arange(4, dtype=np.int32)))
    for source in (np.arange(4, dtype=np.int32), lent):
        array = take(device, source)
        np.testing.assert_array_equal(device.download(array), np.arange(4))
        device.view(array)[2] = 7
        assert np.from_dlpack(source)[2] == 7
        array.memory.free()
        array.memory.free()
        with pytest.raises(CudaError, match="memory was freed"):
            device.download(array)
    del lent
    gc.collect()
    assert not dlpack._lent


def test_arrays_that_cannot_be_taken(device: HostDevice) -> None:
    with pytest.raises(ShapeError, match="wanted whole or floating-point numbers in C order"):
        take(device, np.arange(6).reshape(2, 3).T)
    with pytest.raises(ShapeError, match="in C order"):
        take(device, np.zeros(3, dtype=bool))
    gpu = CudaDevice(libraries=FakeCuda().libraries())
    with pytest.raises(ShapeError, match=r"on device \(1, 0\), wanted \(2, 0\)"):
        take(gpu, np.arange(3))
    gpu.close()


def test_a_gpu_array_is_ordered_before_the_takers_stream() -> None:
    fake = FakeCuda()
    gpu = CudaDevice(libraries=fake.libraries())
    with gpu.active():
        array = gpu.allocate((2,), np.float32)
    lent = Lent(gpu, array)
    assert lent.__dlpack_device__() == (2, 0)
    for stream, waits in ((None, [1]), (77, [77]), (-1, [])):
        fake.calls.clear()
        lent.__dlpack__(stream=stream)
        assert [call[1] for call in fake.calls if call[0] == "cuStreamWaitEvent"] == waits
    gpu.close()


def test_a_producers_array_is_asked_for_on_our_stream() -> None:
    gpu = CudaDevice(libraries=FakeCuda().libraries())
    asked = []

    class Producer(Lent):
        def __dlpack__(self, *, stream: int | None = None, **options: object) -> object:
            asked.append(stream)
            return super().__dlpack__(stream=-1)

    with gpu.active():
        source = gpu.allocate((2, 2), np.float16)
    taken = take(gpu, Producer(gpu, source))
    assert (taken.address, taken.shape, taken.dtype) == (source.address, (2, 2), np.float16)
    assert asked == [gpu.stream]
    gpu.close()
