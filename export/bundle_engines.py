"""TensorRT engines of a whole bundle: built where they are missing or stale, and recorded in the bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trt_vqgan
from trt_vqgan.engine_records import (
    ENGINES_FOLDER,
    EngineKey,
    EngineRecord,
    read_engine_records,
    remove_unrecorded,
    store_engine,
)
from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.export.engine_builder import build_engine, check_targets, possible_targets
from trt_vqgan.export.engine_profiles import engine_profiles
from trt_vqgan.manifest import Manifest, bundle_folder, read_manifest, verify_files
from trt_vqgan.tensorrt_package import RTX, TensorRT, find_tensorrt

USUAL_RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120")

OnEngine = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What `build_engines` did.

    Attributes
    ----------
    tensorrt : name and version.
    targets : GPU architectures.
    built, kept : engines that were built, and that were there already; graph -> record.
    seconds : that building took.
    """

    tensorrt: str
    targets: tuple[str, ...]
    built: dict[str, EngineRecord]
    kept: dict[str, EngineRecord]
    seconds: float


def build_engines(
    bundle: str | os.PathLike[str], *, targets: Sequence[str] = (), on_engine: OnEngine | None = None
) -> BuildReport:
    """Build the engines of a bundle's GPU graphs into its folder ``engines``, one at a time, and record each.

    An interrupted build leaves the bundle usable, and the engines that were finished.

    Parameters
    ----------
    targets : GPU architectures, as "sm86"; by default `USUAL_RTX_TARGETS` with TensorRT-RTX, the GPU here with full
        TensorRT.
    on_engine : called with the graph's name, how many engines are done, and of how many.

    Raises
    ------
    BundleError : the bundle can't be used.
    BackendUnavailableError : no TensorRT, or full TensorRT without a GPU.
    BuildError : no GPU graphs, a target that can't be built for, a graph that TensorRT can't build, or a full disk.
    """
    folder, manifest = bundle_folder(bundle), read_manifest(bundle)
    if manifest.gpu is None:
        raise BuildError(
            f"bundle {bundle}: has no graphs for GPUs; export its checkpoint again with "
            "`trt-vqgan export RUN -o BUNDLE --gpu`"
        )
    tensorrt = _find_tensorrt()
    chosen = check_targets(targets or _usual_targets(tensorrt), tensorrt)
    verify_files(folder, manifest)
    start = time.perf_counter()
    built: dict[str, EngineRecord] = {}
    kept: dict[str, EngineRecord] = {}
    try:
        remove_unrecorded(folder)
        for index, graph in enumerate(manifest.gpu.graphs):
            if on_engine is not None:
                on_engine(graph, index, len(manifest.gpu.graphs))
            key = engine_key(manifest, graph, tensorrt=tensorrt, targets=chosen)
            existing = _recorded(folder, key)
            if existing is not None:
                kept[graph] = existing
            else:
                built[graph] = _build(folder, manifest, key, tensorrt)
    except OSError as error:
        raise BuildError(
            f"{folder / ENGINES_FOLDER}: can't be written ({error.strerror or error}); free space, or copy the bundle "
            "to where it can be written"
        ) from error
    if on_engine is not None:
        on_engine("", len(manifest.gpu.graphs), len(manifest.gpu.graphs))
    return BuildReport(
        tensorrt=tensorrt.title, targets=chosen, built=built, kept=kept, seconds=time.perf_counter() - start
    )


def engine_key(manifest: Manifest, graph: str, *, tensorrt: TensorRT, targets: tuple[str, ...]) -> EngineKey:
    """Return what an engine of a graph is built from and for."""
    return EngineKey(
        graph=graph,
        graph_sha256=manifest.gpu_graph_sha256(graph),
        package=tensorrt.package,
        version=tensorrt.version,
        targets=targets,
        profiles=engine_profiles(manifest.model, graph),
    )


def _find_tensorrt() -> TensorRT:
    try:
        return find_tensorrt()
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"engines can't be built here: {error}. Without engines, pictures are made on the CPU "
            "(`generate --backend onnxruntime`)"
        ) from None


def _usual_targets(tensorrt: TensorRT) -> tuple[str, ...]:
    return USUAL_RTX_TARGETS if tensorrt.package == RTX else possible_targets(tensorrt)[:1]


def _recorded(folder: Path, key: EngineKey) -> EngineRecord | None:
    """Return the engine of a key, or one for more targets and the same otherwise; None where none is there."""
    for record in read_engine_records(folder):
        same = record.key.graph_sha256 == key.graph_sha256 and record.key.profiles == key.profiles
        here = (record.key.package, record.key.version) == (key.package, key.version)
        serves = record.key.graph == key.graph and set(key.targets) <= set(record.key.targets)
        path = folder / record.key.file
        if same and here and serves and path.is_file() and path.stat().st_size == record.size_bytes:
            return record
    return None


def _build(folder: Path, manifest: Manifest, key: EngineKey, tensorrt: TensorRT) -> EngineRecord:
    assert manifest.gpu is not None
    name = f"timing.{tensorrt.version}.{'-'.join(key.targets)}.cache"
    engine = build_engine(
        folder / manifest.gpu.graphs[key.graph],
        tensorrt=tensorrt,
        targets=key.targets,
        profiles=key.profiles,
        timings=folder / ENGINES_FOLDER / name,
    )
    precisions = engine.report.precisions if engine.report is not None else {}
    return store_engine(folder, key, engine.data, precisions=precisions, made_by=trt_vqgan.__version__)
