"""Opens the networks of one VQGAN on a GPU."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from trt_vqgan.engine_records import EngineRecord, read_engine
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.backend_choice import BackendChoice
from trt_vqgan.runtime.bundle_engines import find_engine
from trt_vqgan.runtime.bundle_vqgans import BundleVqgan
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.gpu.code_operations import CudaCodeOperations
from trt_vqgan.runtime.gpu.executors.bound_session import check_cuda_provider
from trt_vqgan.runtime.gpu.executors.cuda_networks import CudaNetworkExecutor
from trt_vqgan.runtime.gpu.executors.networks import NetworkExecutor, NetworkName
from trt_vqgan.runtime.gpu.executors.onnx_networks import OnnxNetworkExecutor
from trt_vqgan.runtime.gpu.executors.tensorrt_networks import NetworkEngine, TensorRTNetworkExecutor
from trt_vqgan.runtime.gpu.kernels import architecture
from trt_vqgan.runtime.gpu.networks import DeviceNetworks
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.runtime.jit_cache import JitCache
from trt_vqgan.tensorrt_package import TensorRT


def open_networks(
    choice: BackendChoice, turns: DeviceTurns, folder: Path, manifest: Manifest, vqgan: BundleVqgan
) -> DeviceNetworks:
    """Return the networks of a VQGAN.

    Parameters
    ----------
    choice : a backend on a GPU.
    turns : the GPU, active in this thread, with the kernels loaded.
    folder, manifest : the bundle, which has graphs for GPUs.

    Raises
    ------
    BackendUnavailableError, EngineMismatchError : it can't run here; says why.
    """
    device = turns.device
    assert isinstance(device, CudaDevice)
    names: dict[NetworkName, str] = {"encoder": vqgan.encoder}
    if vqgan.decoder is not None:
        names["decoder"] = vqgan.decoder
    executor: NetworkExecutor
    if choice.name == "cuda":
        executor = CudaNetworkExecutor(vqgan.spec, _paths(folder, manifest, names), device)
    elif choice.name == "onnxruntime":
        check_cuda_provider()
        executor = OnnxNetworkExecutor(vqgan.spec, _paths(folder, manifest, names), device)
    else:
        executor = _tensorrt(device, folder, manifest, vqgan, names)
    operations = CudaCodeOperations(
        device, vqgan.codebook, number=np.float16, searched=vqgan.spec.quantizer != "gumbel"
    )
    return DeviceNetworks(vqgan.spec, turns, executor=executor, operations=operations)


def _paths(folder: Path, manifest: Manifest, names: dict[NetworkName, str]) -> dict[NetworkName, Path]:
    assert manifest.gpu is not None
    return {network: folder / manifest.gpu.graphs[graph] for network, graph in names.items()}


def _tensorrt(
    device: CudaDevice, folder: Path, manifest: Manifest, vqgan: BundleVqgan, names: dict[NetworkName, str]
) -> TensorRTNetworkExecutor:
    engines: dict[NetworkName, NetworkEngine] = {}
    title = ""
    for network, graph in names.items():
        tensorrt, record = find_engine(folder, manifest, graph, target=f"sm{architecture(device)}")
        load = functools.partial(_load, device, folder, record, tensorrt, graph)
        engines[network] = NetworkEngine(load=load, profiles=record.key.profiles)
        title = tensorrt.title
    return TensorRTNetworkExecutor(vqgan.spec, engines, device, title=title)


def _load(device: CudaDevice, folder: Path, record: EngineRecord, tensorrt: TensorRT, graph: str) -> LoadedEngine:
    jit = JitCache(record.sha256, device.name)
    return LoadedEngine(read_engine(folder, record), tensorrt=tensorrt, name=graph, jit=jit)
