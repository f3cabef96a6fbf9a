"""The TensorRT executor over engines that record what is bound and compute with NumPy when they are enqueued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.runtime.gpu.small_engines import make_device_model
from tests.tolerances import LOGITS_FP32
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.tensorrt import PREFILL_PROFILE, STEP_PROFILE, SegmentEngine, TensorRTExecutor


class FakeSession:
    """A context: its shapes and addresses stay until they are bound again."""

    def __init__(self, engine: FakeEngine, profile: int) -> None:
        self.engine, self.profile = engine, profile
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.scratch: tuple[int, int] | None = None

    def bind(self, name: str, pointer: int, shape: Sequence[int]) -> None:
        self.bound[name] = (pointer, tuple(shape))

    def scratch_bytes(self) -> int:
        return 100 * self.bound["x"][1][0] * self.bound["x"][1][1]

    def bind_scratch(self, pointer: int, size_bytes: int) -> None:
        self.scratch = (pointer, size_bytes)

    def capturable(self, stream_handle: int) -> bool:
        return True

    def enqueue(self, stream_handle: int) -> None:
        assert self.scratch is not None
        assert self.scratch[1] >= self.scratch_bytes()
        assert self.scratch[0] % 256 == 0
        rows = self.bound["x"][1][0]
        assert rows <= (self.engine.step_rows if self.profile == STEP_PROFILE else self.engine.prefill_rows)
        self.engine.runs.append((self.profile, rows))
        session = self.engine.onnx
        inputs = {item.name: self.view(item.name) for item in session.get_inputs()}
        for output, value in zip(session.get_outputs(), session.run(None, inputs), strict=True):
            assert self.bound[output.name][0] not in {self.bound[name][0] for name in inputs}, "writes what it reads"
            self.view(output.name)[...] = value

    def view(self, name: str) -> np.ndarray:
        import ctypes

        pointer, shape = self.bound[name]
        content = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
        return np.ctypeslib.as_array(content).reshape(shape)


class FakeEngine:
    """A segment in fp32, with small profiles."""

    step_rows, prefill_rows = 3, 2

    def __init__(self, path: Path) -> None:
        self.onnx = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.runs: list[tuple[int, int]] = []
        self.sessions: list[FakeSession] = []
        self.saved = 0

    def session(self, *, profile: int, stream_handle: int) -> FakeSession:
        self.sessions.append(FakeSession(self, profile))
        return self.sessions[-1]

    def save_compiled(self) -> None:
        self.saved += 1


@pytest.fixture
def engines_and_driver(tmp_path: Path) -> tuple[list[FakeEngine], DeviceEngine, Any]:
    model = make_device_model(tmp_path)
    engines = [FakeEngine(path) for path in sorted(tmp_path.glob("segment_*.onnx"))]
    device = HostDevice()
    segments: Any = [SegmentEngine(engine=each, step_rows=3, prefill_rows=2) for each in engines]  # type: ignore[arg-type]
    executor = TensorRTExecutor(segments, device, title="TensorRT 0")
    operations = model.engine._operations
    operations._device = device  # type: ignore[attr-defined]
    return engines, DeviceEngine(model.spec, device, operations=operations, executor=executor, number=np.float32), model


def test_prefill_and_steps_in_parts_of_the_profiles(engines_and_driver: Any) -> None:
    engines, driver, model = engines_and_driver
    tokens = np.random.default_rng(0).integers(0, 61, (5, 9))
    wanted = model.reference_logits(tokens)
    cache = driver.new_cache(batch=5, capacity=9)
    found = driver.prefill(cache, tokens[:, :8], rows=np.array([3, 7]))
    np.testing.assert_allclose(found, wanted[:, [3, 7]], atol=LOGITS_FP32)
    found = driver.stepper(cache).step(tokens[:, 8], np.full(5, 8))
    np.testing.assert_allclose(found, wanted[:, 8], atol=LOGITS_FP32)
    for engine in engines:
        parts = [(PREFILL_PROFILE, 2), (PREFILL_PROFILE, 2), (PREFILL_PROFILE, 1), (STEP_PROFILE, 3), (STEP_PROFILE, 2)]
        assert engine.runs == parts


def test_contexts_of_steps_are_bound_once(engines_and_driver: Any) -> None:
    """A graph holds a context's addresses: a step that comes again must find its context as it was."""
    engines, driver, _ = engines_and_driver
    from tests.runtime.gpu.test_driver import drawing

    first = driver.draw(drawing([np.array([1, 2])]))
    made = [len(engine.sessions) for engine in engines]
    np.testing.assert_array_equal(driver.draw(drawing([np.array([1, 2])])), first)
    assert [len(engine.sessions) for engine in engines] == made
    driver.close()
    assert [engine.saved for engine in engines] == [1] * len(engines), "what was compiled is kept"
