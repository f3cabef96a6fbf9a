"""Dense segments through ONNX Runtime: on the CPU, or on a GPU with the CUDA provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.executors.bound_session import BoundSession, describe_onnxruntime
from trt_vqgan.runtime.gpu.executors.segments import Arrays, SegmentExecutor


class OnnxExecutor(SegmentExecutor):
    """One session a segment.

    Parameters
    ----------
    segments : the L + 1 graphs.
    device : the driver's.
    threads : threads of each session's pool, on the CPU.

    Raises
    ------
    BackendUnavailableError : the device is a GPU and this ONNX Runtime doesn't compute there.
    """

    def __init__(self, segments: Sequence[Path], device: Device, *, threads: int) -> None:
        super().__init__(len(segments))
        self._device = device
        self._sessions = [BoundSession(path, device, threads=threads) for path in segments]

    @property
    def capturable(self) -> bool:
        """Whether a graph may hold it: on the CPU, where a graph is a call made again.

        On a GPU, ONNX Runtime allocates in its runs, which ends a capture (error 900).
        """
        return self._device.kind == "cpu"

    def _run(self, index: int, inputs: Arrays, outputs: Arrays) -> None:
        self._sessions[index].run(inputs, outputs)

    def describe(self) -> str:
        """Return what computes."""
        return describe_onnxruntime(self._device)

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()
