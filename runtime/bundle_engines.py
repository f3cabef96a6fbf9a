"""The engine of a bundle's graph that can run on a GPU here."""

from __future__ import annotations

from pathlib import Path

from trt_vqgan.engine_records import EngineRecord, choose_engine, read_engine, read_engine_records
from trt_vqgan.errors import BackendUnavailableError, EngineMismatchError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.tensorrt_package import PACKAGES, TensorRT, find_tensorrt


def load_engine(folder: Path, manifest: Manifest, graph: str, *, target: str) -> LoadedEngine:
    """Return the engine of a GPU graph, loaded.

    Parameters
    ----------
    folder, manifest : the bundle, which has GPU graphs.
    target : the GPU's architecture, as "sm86".

    Raises
    ------
    BackendUnavailableError : no TensorRT.
    EngineMismatchError : no engine fits, or it was changed or can't be loaded; says why.
    """
    tensorrt, record = find_engine(folder, manifest, graph, target=target)
    return LoadedEngine(read_engine(folder, record), tensorrt=tensorrt, name=graph)


def find_engine(folder: Path, manifest: Manifest, graph: str, *, target: str) -> tuple[TensorRT, EngineRecord]:
    """Return what would be loaded; parameters and errors as for `load_engine`."""
    records = read_engine_records(folder)
    reason: BackendUnavailableError | EngineMismatchError | None = None
    for package in PACKAGES:
        try:
            tensorrt = find_tensorrt(package)
        except BackendUnavailableError:
            continue
        try:
            return tensorrt, choose_engine(
                records,
                graph=graph,
                graph_sha256=manifest.gpu_graph_sha256(graph),
                package=tensorrt.package,
                version=tensorrt.version,
                target=target,
            )
        except EngineMismatchError as error:
            reason = reason or error
    if reason is None:
        find_tensorrt()  # raises, and says why for each package
        raise BackendUnavailableError("TensorRT is not installed")
    raise reason
