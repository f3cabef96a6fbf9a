"""Opens the driver of a bundle's transformer on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trt_vqgan.engine_records import read_engine
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.backend_choice import ON_CPU, BackendChoice
from trt_vqgan.runtime.bundle_engines import find_engine
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations, check_kernels_fit
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.executors.onnx import OnnxExecutor
from trt_vqgan.runtime.gpu.executors.tensorrt import (
    PREFILL_PROFILE,
    STEP_PROFILE,
    SegmentEngine,
    TensorRTExecutor,
)
from trt_vqgan.runtime.gpu.kernels import architecture, load_kernels
from trt_vqgan.runtime.gpu.weights import Tensors, read_transformer_weights


def open_on_gpu(choice: BackendChoice, folder: Path, manifest: Manifest) -> DeviceEngine:
    """Return the driver of a bundle's transformer.

    Parameters
    ----------
    choice : a backend on a GPU.
    folder, manifest : the bundle, already checked.

    Raises
    ------
    BackendUnavailableError, EngineMismatchError, BuildError, CudaError : it can't run here; says why.
    BundleError : the weights aren't what the model says.
    """
    spec, graphs = manifest.model.transformer, manifest.gpu
    assert spec is not None
    assert choice.gpu is not None
    if graphs is None or graphs.weights is None:
        raise BackendUnavailableError(
            f"backend {choice.name} on a GPU: the bundle has no graphs for GPUs (export its checkpoint with --gpu); "
            f"{ON_CPU}"
        )
    check_kernels_fit(spec)
    tensors = read_transformer_weights(folder / graphs.weights, spec)
    device = CudaDevice(choice.gpu)
    try:
        with device.active():
            load_kernels(device)
            operations = CudaOperations(device, spec, tensors["tok_emb.weight"], tensors["pos_emb"])
            executor = _executor(choice, device, folder, manifest, tensors)
            device.synchronize()
    except BaseException:
        device.close()
        raise
    return DeviceEngine(spec, device, operations=operations, executor=executor, number=np.float16)


def _executor(
    choice: BackendChoice, device: CudaDevice, folder: Path, manifest: Manifest, tensors: Tensors
) -> Executor:
    spec, graphs = manifest.model.transformer, manifest.gpu
    assert spec is not None
    assert graphs is not None
    if choice.name == "cuda":
        return CudaExecutor(device, spec, tensors)
    if choice.name == "onnxruntime":
        return OnnxExecutor([folder / graphs.graphs[name] for name in graphs.segments], device, threads=1)
    segments, title = [], ""
    for name in graphs.segments:
        segment, title = _engine(name, device, folder, manifest)
        segments.append(segment)
    return TensorRTExecutor(segments, device, title=title)


def _engine(name: str, device: CudaDevice, folder: Path, manifest: Manifest) -> tuple[SegmentEngine, str]:
    """Return a segment's engine, and the title of the TensorRT that runs it."""
    tensorrt, record = find_engine(folder, manifest, name, target=f"sm{architecture(device)}")
    profiles = record.key.profiles
    segment = SegmentEngine(
        engine=LoadedEngine(read_engine(folder, record), tensorrt=tensorrt, name=name),
        step_rows=profiles[STEP_PROFILE].shapes["x"].maximum[0],
        prefill_rows=profiles[PREFILL_PROFILE].shapes["x"].maximum[0],
    )
    return segment, tensorrt.title
