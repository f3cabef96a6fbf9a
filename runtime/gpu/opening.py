"""Opens what of a bundle runs on a GPU: the driver of its transformer, and the networks of its VQGANs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trt_vqgan.engine_records import read_engine
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.backend_choice import ON_CPU, BackendChoice
from trt_vqgan.runtime.bundle_engines import find_engine
from trt_vqgan.runtime.bundle_vqgans import BundleVqgan
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations, check_kernels_fit
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.runtime.gpu.executors.cuda_networks import check_network_fits
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.executors.onnx import OnnxExecutor
from trt_vqgan.runtime.gpu.executors.tensorrt import (
    PREFILL_PROFILE,
    STEP_PROFILE,
    SegmentEngine,
    TensorRTExecutor,
)
from trt_vqgan.runtime.gpu.given_arrays import on_host
from trt_vqgan.runtime.gpu.kernels import architecture, load_kernels
from trt_vqgan.runtime.gpu.networks import DeviceNetworks
from trt_vqgan.runtime.gpu.networks_opening import open_networks
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.runtime.gpu.weights import Tensors, read_transformer_weights
from trt_vqgan.runtime.jit_cache import JitCache


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuModels:
    """What runs on one GPU.

    Attributes
    ----------
    turns : the GPU, closed with this.
    engine : the transformer's driver; None for a VQGAN alone.
    networks : of the VQGANs, by the name of their encoder's graph.
    """

    turns: DeviceTurns
    engine: DeviceEngine | None
    networks: dict[str, DeviceNetworks]

    def graphs(self, names: Iterable[str]) -> list[str]:
        """Return those of a bundle's graphs that it takes the place of."""
        vqgans = {*self.networks, *(("decoder",) if "encoder" in self.networks else ())}
        return [name for name in names if name in vqgans or (name == "transformer" and self.engine is not None)]

    def on_host(self, value: Any) -> Any:
        """Return ``value``, or its copy on the host where it is an array on a GPU."""
        return on_host(self.turns, value)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        try:
            for networks in self.networks.values():
                networks.close()
            if self.engine is not None:
                self.engine.close()
        finally:
            self.turns.close()


def open_on_gpu(
    choice: BackendChoice, folder: Path, manifest: Manifest, vqgans: Sequence[BundleVqgan] = ()
) -> GpuModels:
    """Return what runs a bundle's models.

    Parameters
    ----------
    choice : a backend on a GPU.
    folder, manifest : the bundle, already checked.
    vqgans : those of the bundle.

    Raises
    ------
    BackendUnavailableError, EngineMismatchError, BuildError, CudaError : it can't run here; says why.
    BundleError : the weights aren't what the model says.
    """
    spec, graphs = manifest.model.transformer, manifest.gpu
    assert choice.gpu is not None
    if graphs is None:
        raise BackendUnavailableError(
            f"backend {choice.name} on a GPU: the bundle has no graphs for GPUs (export its checkpoint with --gpu); "
            f"{ON_CPU}"
        )
    if choice.name == "cuda":
        for each in vqgans:
            check_network_fits(each.spec)
    tensors: Tensors = {}
    if spec is not None:
        assert graphs.weights is not None
        check_kernels_fit(spec)
        tensors = read_transformer_weights(folder / graphs.weights, spec)
    device = CudaDevice(choice.gpu)
    turns = DeviceTurns(device, stream=choice.stream)
    try:
        with turns.turn():
            load_kernels(device)
            engine = None
            if spec is not None:
                deterministic = choice.deterministic
                embeddings = tensors["tok_emb.weight"], tensors["pos_emb"]
                operations = CudaOperations(device, spec, *embeddings, deterministic=deterministic)
                executor = _executor(choice, device, folder, manifest, tensors)
                engine = DeviceEngine(
                    spec,
                    device,
                    operations=operations,
                    executor=executor,
                    number=np.float16,
                    turns=turns,
                    deterministic=deterministic,
                )
            networks = {each.encoder: open_networks(choice, turns, folder, manifest, each) for each in vqgans}
            device.synchronize()
    except BaseException:
        turns.close()
        raise
    return GpuModels(turns=turns, engine=engine, networks=networks)


def _executor(
    choice: BackendChoice, device: CudaDevice, folder: Path, manifest: Manifest, tensors: Tensors
) -> Executor:
    spec, graphs = manifest.model.transformer, manifest.gpu
    assert spec is not None
    assert graphs is not None
    if choice.name == "cuda":
        return CudaExecutor(device, spec, tensors, deterministic=choice.deterministic)
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
        engine=LoadedEngine(
            read_engine(folder, record), tensorrt=tensorrt, name=name, jit=JitCache(record.sha256, device.name)
        ),
        step_rows=profiles[STEP_PROFILE].shapes["x"].maximum[0],
        prefill_rows=profiles[PREFILL_PROFILE].shapes["x"].maximum[0],
    )
    return segment, tensorrt.title
