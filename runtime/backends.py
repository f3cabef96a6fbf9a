"""Which backends can run a bundle here, and everything that is missing for the others."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from trt_vqgan.engine_records import read_engine_records
from trt_vqgan.errors import BackendUnavailableError, EngineMismatchError
from trt_vqgan.local_gpu import LocalGpu, local_gpus
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.bundle_engines import find_engine
from trt_vqgan.runtime.threads import available_threads
from trt_vqgan.tensorrt_package import find_tensorrt

OLDEST_GPU = (8, 0)
GPU_PACKAGES = {"pycuda": "pycuda", "cuda.bindings": "cuda-bindings"}


@dataclass(frozen=True, kw_only=True)
class BackendReport:
    """Whether a backend can run a bundle here; ``text`` says on what, or everything that is missing."""

    usable: bool
    text: str

    def __str__(self) -> str:
        return f"{'yes' if self.usable else 'no'}, {self.text}"


def backend_reports(folder: Path, manifest: Manifest) -> dict[str, BackendReport]:
    """Return a report of each backend: "native", "onnxruntime", "cuda", "tensorrt"."""
    reports = {"native": _native(), "onnxruntime": _onnxruntime()}
    gpu, missing = _gpu(manifest)
    engines = [] if manifest.gpu is None else _engines(folder, manifest, gpu)
    for name, reasons in (("cuda", missing), ("tensorrt", [*missing, *engines])):
        if gpu is not None and not reasons:
            reports[name] = BackendReport(usable=True, text=f"on {gpu.name} ({gpu.target})")
        else:
            reports[name] = BackendReport(usable=False, text="; ".join(reasons))
    return reports


def _native() -> BackendReport:
    from trt_vqgan.runtime.native.build import COMPILERS, find_compiler, find_library

    library, compiler = find_library(), find_compiler()
    if library is not None:
        return BackendReport(usable=True, text=f"{library} on the CPU, {available_threads()} threads")
    if compiler is not None:
        return BackendReport(usable=True, text=f"once {compiler} has compiled it, which --backend native does")
    return BackendReport(usable=False, text=f"no C++ compiler on this machine ({', '.join(COMPILERS)})")


def _onnxruntime() -> BackendReport:
    try:
        import onnxruntime

        from trt_vqgan.runtime.sessions import check_onnxruntime

        check_onnxruntime()
    except ImportError as error:
        text = f"it can't be imported ({error}); `pip install onnxruntime` installs it"
        return BackendReport(usable=False, text=text)
    except BackendUnavailableError as error:
        return BackendReport(usable=False, text=str(error))
    text = f"version {onnxruntime.__version__} on the CPU, {available_threads()} threads"
    return BackendReport(usable=True, text=text)


def _gpu(manifest: Manifest) -> tuple[LocalGpu | None, list[str]]:
    """Return the first GPU, and what every GPU backend misses."""
    missing = []
    gpu = None
    if manifest.gpu is None:
        missing.append("the bundle has no graphs for GPUs (export its checkpoint with --gpu)")
    try:
        gpu = local_gpus()[0]
    except BackendUnavailableError as error:
        missing.append(str(error))
    if gpu is not None and gpu.compute_capability < OLDEST_GPU:
        missing.append(f"{gpu.name} is {gpu.target}, wanted sm80 or newer")
    absent = [package for module, package in GPU_PACKAGES.items() if not _installed(module)]
    if absent:
        missing.append(f"{' and '.join(absent)} not installed (`pip install 'trt-vqgan[gpu]'`)")
    return gpu, missing


def _engines(folder: Path, manifest: Manifest, gpu: LocalGpu | None) -> list[str]:
    """Return why the engines of a bundle with GPU graphs can't be used; without a GPU, what is missing in any case."""
    assert manifest.gpu is not None
    try:
        find_tensorrt()
        if gpu is None:
            return [] if read_engine_records(folder) else ["no engines (`trt-vqgan build` makes them)"]
        for graph in manifest.gpu.graphs:
            find_engine(folder, manifest, graph, target=gpu.target)
    except (BackendUnavailableError, EngineMismatchError) as error:
        return [str(error)]
    return []


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it lies in
        return False
