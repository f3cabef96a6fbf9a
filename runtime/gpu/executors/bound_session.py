"""An ONNX Runtime session whose inputs and outputs lie in a device's memory, on the CPU or on a GPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.sessions import open_session

CUDA_PROVIDER = "CUDAExecutionProvider"


class BoundSession:
    """One graph. Inputs and outputs are bound where they lie, so nothing is copied.

    Parameters
    ----------
    path : the graph.
    device : whose arrays it reads and writes.
    threads : threads of its pool, on the CPU.
    arena : as `trt_vqgan.runtime.sessions.open_session`, on the CPU.

    Raises
    ------
    BackendUnavailableError : the device is a GPU and this ONNX Runtime doesn't compute there.
    """

    def __init__(self, path: Path, device: Device, *, threads: int, arena: bool = True) -> None:
        self._device = device
        if device.kind == "cuda":
            self._session = _open_cuda_session(path, device)
        else:
            self._session = open_session(path, threads=threads, arena=arena)

    def run(self, inputs: dict[str, DeviceArray], outputs: dict[str, DeviceArray]) -> None:
        """Run it in the order of the device's stream."""
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, self._device.kind, self._device.index, array.dtype.type, array.shape, int(array.pointer))
        options = ort.RunOptions()
        if self._device.kind == "cuda":
            # the stream is the driver's own: what reads the results comes later on it
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._session.run_with_iobinding(binding, options)


def describe_onnxruntime(device: Device) -> str:
    """Return what computes, for people."""
    return f"ONNX Runtime {ort.__version__}, {'CUDA' if device.kind == 'cuda' else 'CPU'}"


def check_cuda_provider() -> None:
    """Raise BackendUnavailableError where this ONNX Runtime has no provider for GPUs."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise BackendUnavailableError(
            f"this ONNX Runtime {ort.__version__} has no {CUDA_PROVIDER}: pip uninstall -y onnxruntime && "
            "pip install onnxruntime-gpu"
        )


def _open_cuda_session(path: Path, device: Device) -> ort.InferenceSession:
    check_cuda_provider()
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    settings = {"device_id": str(device.index), "user_compute_stream": str(device.stream)}
    session = ort.InferenceSession(str(path), options, providers=[(CUDA_PROVIDER, settings), "CPUExecutionProvider"])
    # what was compiled in says little; a session falls back by itself where cuDNN or the driver is missing
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise BackendUnavailableError(
            f"ONNX Runtime {ort.__version__} has {CUDA_PROVIDER} but can't use it here; its log says why, usually "
            "cuDNN or the driver is missing or too old"
        )
    return session
