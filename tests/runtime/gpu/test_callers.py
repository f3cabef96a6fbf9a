"""What a caller on the GPU brings along: a stream whose order is kept, and arrays that lie on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.device.fake_cuda import FakeCuda
from tests.runtime.test_golden import Golden, open_golden
from trt_vqgan.errors import BackendUnavailableError, ShapeError
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.device.dlpack import Lent
from trt_vqgan.runtime.gpu.caller_streams import stream_handle
from trt_vqgan.runtime.gpu.given_arrays import on_host
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.runtime.pipeline import load

STREAM = 0x77


class Stream:
    """A stream of another library."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, STREAM


def test_streams_are_given_as_handles_or_as_objects() -> None:
    assert [stream_handle(stream) for stream in (0, STREAM, Stream())] == [0, STREAM, STREAM]
    for wrong in (-1, 2**64, True, "7", None, object()):
        with pytest.raises(ShapeError, match="wanted the handle of a CUDA stream"):
            stream_handle(wrong)


def orders(fake: FakeCuda, begin: int) -> list[tuple[Any, ...]]:
    """Return which streams events were recorded in and waited for by, and what was copied, from a call on."""
    kept = ("cuEventRecord", "cuStreamWaitEvent", "dtoh")
    return [call for call in fake.calls[begin:] if call[0] in kept]


def test_a_turn_runs_behind_the_callers_stream_and_before_what_comes_later() -> None:
    fake = FakeCuda()
    turns = DeviceTurns(CudaDevice(0, libraries=fake.libraries()), stream=STREAM)
    own = turns.device.stream
    with pytest.raises(KeyError), turns.turn():
        array = turns.device.allocate((3,), np.int32)
        begin = len(fake.calls)
        turns.device.download(array)
        inside = orders(fake, begin)
        raise KeyError
    found = orders(fake, 0)
    where = [str(call) for call in found]
    assert [call[0] for call in found] == [
        "cuEventRecord", "cuStreamWaitEvent", "dtoh", "cuEventRecord", "cuStreamWaitEvent",
    ]  # fmt: skip
    assert found[2:3] == inside
    assert str(STREAM) in where[0]
    assert str(own) in where[1]
    assert str(own) in where[3], "also after an error"
    assert str(STREAM) in where[4]
    turns.close()


def test_without_a_stream_there_is_no_order() -> None:
    fake = FakeCuda()
    turns = DeviceTurns(CudaDevice(0, libraries=fake.libraries()))
    with turns.turn():
        pass
    assert orders(fake, 0) == []
    turns.close()


def test_arrays_on_the_gpu_are_copied_once() -> None:
    fake = FakeCuda()
    device = CudaDevice(0, libraries=fake.libraries())
    turns = DeviceTurns(device)
    with turns.turn():
        array = device.allocate((2, 3), np.int64)
    begin = len(fake.calls)
    found = on_host(turns, Lent(device, array))
    assert (found.shape, found.dtype) == ((2, 3), np.int64)
    assert [call[0] for call in orders(fake, begin)][-1] == "dtoh"
    assert [call[0] for call in orders(fake, begin)].count("dtoh") == 1
    assert not array.memory.is_free, "it is the caller's"
    ours = np.arange(3)
    for value in (ours, [1, 2], None, "text"):
        assert on_host(turns, value) is value

    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 5

    with pytest.raises(ShapeError, match=r"found an array on device \(2, 5\), wanted \(2, 0\)"):
        on_host(turns, Elsewhere())
    turns.close()


# --- in a pipeline ----------------------------------------------------------------------------------------------------


class Given:
    """Stands for an array on the GPU."""

    def __init__(self, content: Any) -> None:
        self.content = content


class OnGpu:
    """Stands for the models of a GPU: what it is asked to copy."""

    networks: dict[str, Any] = {}  # noqa: RUF012  read only

    def on_host(self, value: Any) -> Any:
        return value.content if isinstance(value, Given) else value


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return open_golden("class", tmp_path_factory.mktemp("golden"))


def test_every_method_takes_arrays_on_the_gpu(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, codes, cond = golden.pipe, golden.expected["z_indices"].reshape(1, 16, 16), golden.condition
    images = pipe.decode(codes)
    wanted = [
        pipe.encode(images), images, pipe.logits(cond, codes), pipe.score(codes, cond),
        pipe.generate(condition_codes=cond, greedy=True).codes, pipe.encode_condition(class_id=np.array([1])),
    ]  # fmt: skip
    monkeypatch.setattr(pipe._models, "on_gpu", OnGpu())
    found = [
        pipe.encode(Given(images)), pipe.decode(Given(codes)), pipe.logits(Given(cond), Given(codes)),
        pipe.score(Given(codes), Given(cond)),
        pipe.generate(condition_codes=Given(cond), greedy=True).codes,  # type: ignore[arg-type]
        pipe.encode_condition(class_id=Given(np.array([1]))),  # type: ignore[arg-type]
    ]  # fmt: skip
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stream_on_the_cpu_is_refused(golden: Golden) -> None:
    with pytest.raises(BackendUnavailableError, match="the CPU, which has no streams"):
        load(golden.pipe._folder, device="cpu", stream=STREAM)
