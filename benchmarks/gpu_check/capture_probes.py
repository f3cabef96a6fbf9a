"""Questions to libraries that may refuse, hang or end their process: ``… NAME GPU ENGINE`` prints an answer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trt_vqgan.errors import BackendUnavailableError, BuildError, CudaError, TrtVqganError
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.device.interface import upload_new
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.gpu.kernels import architecture
from trt_vqgan.tensorrt_package import RTX, TensorRT, TensorRTLog, find_tensorrt

LENGTH = 64
UNAVAILABLE = 3
"""Exit status of a probe whose library isn't here."""


def tensorrt_rtx_sm80(gpu: int, engine: str) -> str:
    """Load a TensorRT-RTX engine that was built for sm_80: ``engine``, or a small one that is built now."""
    tensorrt = find_tensorrt(RTX)
    data = Path(engine).read_bytes() if engine else small_engine(tensorrt, "sm80")
    device = CudaDevice(gpu)
    with device.active():
        LoadedEngine(data, tensorrt=tensorrt, name="sm80")
    return f"{device.describe()} loads an engine for sm80"


def tensorrt_capture(gpu: int, engine: str) -> str:
    """Run a small engine for this GPU, capture its second run and replay it."""
    tensorrt = find_tensorrt()
    device = CudaDevice(gpu)
    with device.active():
        data = small_engine(tensorrt, f"sm{architecture(device)}")
        session = LoadedEngine(data, tensorrt=tensorrt, name="doubling").session(profile=0, stream_handle=device.stream)
        given = upload_new(device, np.arange(LENGTH, dtype=np.float32))
        result = device.allocate((LENGTH,), np.float32)
        session.bind("x", int(given.pointer), given.shape)
        session.bind("y", int(result.pointer), result.shape)
        scratch = device.allocate((max(256, session.scratch_bytes()),), np.uint8)
        session.bind_scratch(int(scratch.pointer), scratch.nbytes)
        session.enqueue(device.stream)
        device.synchronize()
        says = session.capturable(device.stream)
        graph = device.capture(lambda: session.enqueue(device.stream))
        device.upload(given, np.full(LENGTH, 3, np.float32))
        graph.replay()
        if not (device.download(result) == 6).all():
            raise CudaError("the replay computed something else")
    return f"{tensorrt.title} runs inside a captured graph (says that it can: {says})"


def onnxruntime_capture(gpu: int, engine: str) -> str:
    """Capture a Run of ONNX Runtime's CUDA provider on our stream; a bare process, as it may be ended (error 900)."""
    ort: Any = importlib.import_module("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise BackendUnavailableError(f"onnxruntime {ort.__version__} has no CUDA provider")
    onnx: Any = importlib.import_module("onnx")
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [LENGTH]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "doubling", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    device = CudaDevice(gpu)
    with device.active():
        settings = {"device_id": str(gpu), "user_compute_stream": str(device.stream)}
        session = ort.InferenceSession(model.SerializeToString(), providers=[("CUDAExecutionProvider", settings)])
        given = upload_new(device, np.arange(LENGTH, dtype=np.float32))
        result = device.allocate((LENGTH,), np.float32)
        binding = session.io_binding()
        binding.bind_input("x", "cuda", gpu, np.float32, given.shape, int(given.pointer))
        binding.bind_output("y", "cuda", gpu, np.float32, result.shape, int(result.pointer))
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for _ in range(3):
            session.run_with_iobinding(binding, options)
        device.synchronize()
        captured = device.capture(lambda: session.run_with_iobinding(binding, options))
        device.upload(given, np.full(LENGTH, 3, np.float32))
        captured.replay()
        if not (device.download(result) == 6).all():
            raise CudaError("the replay computed something else")
    return f"onnxruntime {ort.__version__} runs inside a captured graph"


PROBES: dict[str, Callable[[int, str], str]] = {
    probe.__name__: probe for probe in (tensorrt_rtx_sm80, tensorrt_capture, onnxruntime_capture)
}


def small_engine(tensorrt: TensorRT, target: str) -> bytes:
    """Return an engine that doubles ``x`` float32 (64,) into ``y``.

    Raises
    ------
    BuildError : TensorRT doesn't build for the target; carries its own log lines.
    """
    trt, log = tensorrt.module, TensorRTLog(tensorrt.module)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float32, (LENGTH,))
    doubled = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    doubled.name = "y"
    network.mark_output(doubled)
    config = builder.create_builder_config()
    if tensorrt.package == RTX:
        capability = getattr(trt.ComputeCapability, target.upper(), None)
        if capability is None:
            raise BuildError(f"{tensorrt.title} doesn't know {target}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BuildError(f"{tensorrt.title} can't build for {target}. {log.told()}")
    return bytes(data)


def main(arguments: list[str]) -> int:
    """Print the answer; 1 with what was refused, `UNAVAILABLE` where the library isn't here."""
    name, gpu, engine = arguments
    try:
        print(PROBES[name](int(gpu), engine))
    except (BackendUnavailableError, ImportError) as error:
        print(error)
        return UNAVAILABLE
    except TrtVqganError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
