"""The golden models through the other executors: ONNX Runtime's CUDA provider, and TensorRT, built on the spot.

Each is used where it is installed, and listed under ``skipped`` with the reason where not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trt_vqgan.benchmarks.gpu_check.golden_files import GoldenModel, read_goldens
from trt_vqgan.benchmarks.gpu_check.goldens_stage import HALF_LOGITS_RELATIVE, check_golden
from trt_vqgan.benchmarks.gpu_check.open_gpu import open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.engine_records import Profile
from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.executors.tensorrt import PREFILL_PROFILE, STEP_PROFILE, SegmentEngine, TensorRTExecutor
from trt_vqgan.runtime.gpu.kernels import architecture
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.tensorrt_package import PACKAGES, TensorRT, find_tensorrt

BUILD_SECONDS = 20.0
"""No further model is begun after so long with one TensorRT: full TensorRT tries kernels for seconds a segment."""

BuildSegment = Callable[[Path, Sequence[Profile]], LoadedEngine]


def run(records: Records, settings: Settings) -> None:
    """Check each golden model that was carried here."""
    goldens = list(read_goldens(Path(settings.goldens)))
    if not goldens:
        records.skip(
            "golden_executors", f"{settings.goldens} has none; --prepare writes it where torch and onnx are installed"
        )
        return
    with records.part("goldens on onnxruntime"):
        need_cuda_provider()
        for golden in goldens:
            with records.part(f"golden {golden.name} on onnxruntime"), open_gpu(settings.gpu) as device:
                check_on_onnxruntime(records, golden, device)
    for package in PACKAGES:
        with records.part(f"goldens on {package}"):
            tensorrt = find_tensorrt(package)
            with open_gpu(settings.gpu) as device:
                build = builder(tensorrt, f"sm{architecture(device)}")
            begin = time.monotonic()
            for golden in goldens:
                if time.monotonic() - begin > BUILD_SECONDS:
                    records.skip(f"golden {golden.name} on {package}", f"{BUILD_SECONDS:.0f} s went to others' engines")
                    continue
                with records.part(f"golden {golden.name} on {package}"), open_gpu(settings.gpu) as device:
                    check_on_tensorrt(records, golden, device, build, title=tensorrt.title)


def need_cuda_provider() -> None:
    """Raise where ONNX Runtime isn't here, or has no provider for GPUs."""
    from trt_vqgan.runtime.gpu.executors.bound_session import check_cuda_provider  # brings ONNX Runtime

    check_cuda_provider()


def check_on_onnxruntime(records: Records, golden: GoldenModel, device: Device) -> None:
    """Check a golden model through ONNX Runtime on ``device``."""
    from trt_vqgan.runtime.gpu.executors.onnx import OnnxExecutor  # brings ONNX Runtime

    _check(records, golden, device, OnnxExecutor(golden.segments, device, threads=1), "onnxruntime")


def builder(tensorrt: TensorRT, target: str) -> BuildSegment:
    """Return what builds a segment for a GPU's architecture and loads it.

    Raises
    ------
    BackendUnavailableError : this TensorRT doesn't build for it.
    """
    from trt_vqgan.export.engine_builder import build_engine, check_targets

    try:
        targets = check_targets((target,), tensorrt)
    except BuildError as error:
        raise BackendUnavailableError(str(error)) from error

    def build(graph: Path, profiles: Sequence[Profile]) -> LoadedEngine:
        built = build_engine(graph, tensorrt=tensorrt, targets=targets, profiles=profiles)
        return LoadedEngine(bytes(built.data), tensorrt=tensorrt, name=graph.stem)

    return build


def check_on_tensorrt(
    records: Records, golden: GoldenModel, device: Device, build: BuildSegment, *, title: str
) -> None:
    """Check a golden model through engines that ``build`` makes of its segments, with the profiles of a bundle's."""
    from trt_vqgan.export.engine_profiles import segment_profiles

    segments = []
    for index, graph in enumerate(golden.segments):
        profiles = segment_profiles(golden.spec, has_attended=index > 0)
        step, prefill = (profiles[i].shapes["x"].maximum[0] for i in (STEP_PROFILE, PREFILL_PROFILE))
        segments.append(SegmentEngine(engine=build(graph, profiles), step_rows=step, prefill_rows=prefill))
    _check(records, golden, device, TensorRTExecutor(segments, device, title=title), title)


def _check(records: Records, golden: GoldenModel, device: Device, executor: Executor, name: str) -> None:
    embeddings = golden.tensors["tok_emb.weight"], golden.tensors["pos_emb"]
    operations = CudaOperations(device, golden.spec, *embeddings)
    # turns of our own, so that the device stays the caller's
    engine = DeviceEngine(golden.spec, device, operations=operations, executor=executor, turns=DeviceTurns(device))
    named = dataclasses.replace(golden, name=f"{golden.name} on {name}")
    try:
        check_golden(records, named, engine, relative=HALF_LOGITS_RELATIVE)
    finally:
        engine.close()
