"""Dense segments through ONNX Runtime: on the CPU, or on a GPU with the CUDA provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.executors.segments import Arrays, SegmentExecutor
from trt_vqgan.runtime.sessions import open_session


class OnnxExecutor(SegmentExecutor):
    """One session a segment. Inputs and outputs are bound where they lie, so nothing is copied.

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
        if device.kind == "cuda":
            self._sessions = [_open_cuda_session(path, device) for path in segments]
        else:
            self._sessions = [open_session(path, threads=threads) for path in segments]

    @property
    def capturable(self) -> bool:
        """Whether a graph may hold it: on the CPU, where a graph is a call made again.

        On a GPU, ONNX Runtime allocates in its runs, which ends a capture (error 900).
        """
        return self._device.kind == "cpu"

    def _run(self, index: int, inputs: Arrays, outputs: Arrays) -> None:
        binding = self._sessions[index].io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, self._device.kind, self._device.index, array.dtype.type, array.shape, int(array.pointer))
        options = ort.RunOptions()
        if self._device.kind == "cuda":
            # the stream is the driver's own: what reads the results comes later on it
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._sessions[index].run_with_iobinding(binding, options)

    def describe(self) -> str:
        """Return what computes."""
        where = "CUDA" if self._device.kind == "cuda" else "CPU"
        return f"ONNX Runtime {ort.__version__}, {where}"

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()


def _open_cuda_session(path: Path, device: Device) -> ort.InferenceSession:
    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise BackendUnavailableError(
            f"this ONNX Runtime {ort.__version__} has no {provider}: pip uninstall -y onnxruntime && "
            "pip install onnxruntime-gpu"
        )
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    settings = {"device_id": str(device.index), "user_compute_stream": str(device.stream)}
    session = ort.InferenceSession(str(path), options, providers=[(provider, settings), "CPUExecutionProvider"])
    # what was compiled in says little; a session falls back by itself where cuDNN or the driver is missing
    if session.get_providers()[0] != provider:
        raise BackendUnavailableError(
            f"ONNX Runtime {ort.__version__} has {provider} but can't use it here; its log says why, usually cuDNN or "
            "the driver is missing or too old"
        )
    return session
