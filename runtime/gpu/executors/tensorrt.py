"""Dense segments as TensorRT engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.engine_session import EngineSession, LoadedEngine
from trt_vqgan.runtime.gpu.executors.segments import Arrays, SegmentExecutor

STEP_PROFILE, PREFILL_PROFILE = 0, 1
SCRATCH_ALIGNMENT = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentEngine:
    """A segment's engine, and how many rows it takes at once in a step and in a prefill (its profiles' largest)."""

    engine: LoadedEngine
    step_rows: int
    prefill_rows: int


class TensorRTExecutor(SegmentExecutor):
    """One engine a segment. More rows than a profile takes run one part after the other.

    A captured graph holds a context's shapes and addresses, so each part of each step has a context of its own, bound
    once; prefills share one context a segment, bound anew each time.

    Parameters
    ----------
    segments : the L + 1 engines.
    device : the driver's.
    title : of the TensorRT that runs them.
    """

    def __init__(self, segments: Sequence[SegmentEngine], device: Device, *, title: str) -> None:
        super().__init__(len(segments))
        self._segments, self._device, self._title = segments, device, title
        self._steps: dict[tuple[int, tuple[tuple[str, int, tuple[int, ...]], ...]], EngineSession] = {}
        self._prefills: dict[int, EngineSession] = {}
        self._scratch: list[DeviceArray] = []  # the last is the one to use; graphs may hold earlier ones

    @property
    def capturable(self) -> bool:
        """Whether a graph may hold it: as far as its contexts say."""
        return all(session.capturable(self._device.stream) for session in self._steps.values())

    def _run(self, index: int, inputs: Arrays, outputs: Arrays) -> None:
        segment, x = self._segments[index], inputs["x"]
        is_step = x.shape[1] == 1
        most = segment.step_rows if is_step else segment.prefill_rows
        for start in range(0, len(x), most):
            stop = min(start + most, len(x))
            tensors = {name: array.rows(start, stop) for name, array in (inputs | outputs).items()}
            session = self._step(index, tensors) if is_step else self._prefill(index, tensors)
            session.enqueue(self._device.stream)

    def _step(self, index: int, tensors: dict[str, DeviceArray]) -> EngineSession:
        key = (index, tuple((name, int(array.pointer), array.shape) for name, array in tensors.items()))
        if key not in self._steps:
            session = self._segments[index].engine.session(profile=STEP_PROFILE, stream_handle=self._device.stream)
            self._bind(session, tensors)
            self._steps[key] = session
        return self._steps[key]

    def _prefill(self, index: int, tensors: dict[str, DeviceArray]) -> EngineSession:
        if index not in self._prefills:
            self._prefills[index] = self._segments[index].engine.session(
                profile=PREFILL_PROFILE, stream_handle=self._device.stream
            )
        self._bind(self._prefills[index], tensors)
        return self._prefills[index]

    def _bind(self, session: EngineSession, tensors: dict[str, DeviceArray]) -> None:
        for name, array in tensors.items():
            session.bind(name, int(array.pointer), array.shape)
        needed = session.scratch_bytes()
        if not self._scratch or self._scratch[-1].nbytes < needed:
            rounded = -(-max(needed, 1) // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
            self._scratch.append(self._device.allocate((rounded,), np.uint8))
        scratch = self._scratch[-1]
        session.bind_scratch(int(scratch.pointer), scratch.nbytes)

    def describe(self) -> str:
        """Return what computes."""
        return self._title

    def close(self) -> None:
        """Keep what was compiled; release contexts, engines and scratch memory."""
        for segment in self._segments:
            segment.engine.save_compiled()
        self._steps.clear()
        self._prefills.clear()
        self._segments = ()
        for array in self._scratch:
            array.memory.free()
        self._scratch.clear()
