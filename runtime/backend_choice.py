"""Which backend runs a bundle, on which device: what was asked for, or the best there is; never another silently."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.backends import backend_reports

BackendName = Literal["native", "onnxruntime", "tensorrt", "cuda"]
PicturePrecision = Literal["auto", "fp32", "bf16"]

GPU_BACKENDS: tuple[BackendName, ...] = ("tensorrt", "cuda")
"""In the order in which ``auto`` takes them."""

PICTURE_PRECISIONS: tuple[PicturePrecision, ...] = ("auto", "fp32", "bf16")
BACKENDS = ("auto", "native", "onnxruntime", *GPU_BACKENDS)
ON_CPU = "--backend onnxruntime --device cpu runs this bundle on the CPU"

_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,3}))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """A backend on a device.

    Attributes
    ----------
    name : which.
    gpu : number of the GPU; None on the CPU.
    deterministic : pictures have the same codes whatever others run beside them; on the CPU they always have.
    picture_precision : asked for of the decoder, which only our CPU kernels let choose.
    stream : handle of a caller's CUDA stream, whose order the work keeps; None without one.
    """

    name: BackendName = "onnxruntime"
    gpu: int | None = None
    deterministic: bool = False
    picture_precision: PicturePrecision = "auto"
    stream: int | None = None


CPU_CHOICE = BackendChoice()
"""What runs every bundle."""


def choose_backend(
    backend: str,
    device: str | None,
    folder: Path,
    manifest: Manifest,
    *,
    deterministic: bool = False,
    picture_precision: str = "auto",
) -> BackendChoice:
    """Return what runs a bundle.

    Parameters
    ----------
    backend : one of `BACKENDS`. "auto" takes the first of `GPU_BACKENDS` that can run the bundle here, unless the
        device is the CPU; else our CPU kernels where they have been built, so that nothing has to be compiled before
        the first picture; else ONNX Runtime.
    device : "cpu", "cuda" or "cuda:N"; None for what suits the backend.
    folder, manifest : the bundle.
    deterministic : leaves of the backends on a GPU only "cuda", where we know in which order everything is added.
    picture_precision : one of `PICTURE_PRECISIONS`, as ``load`` of `trt_vqgan.runtime.pipeline` takes it.

    Raises
    ------
    BackendUnavailableError : an unknown backend or device, two that don't go together, or one that can't run the bundle
        here; says everything that is missing, and what runs instead.
    """
    choice = _choose(backend, device, folder, manifest, deterministic=deterministic)
    for precision in PICTURE_PRECISIONS:
        if precision == picture_precision:
            return dataclasses.replace(choice, picture_precision=_checked(precision, choice))
    raise BackendUnavailableError(
        f"picture precision: found {picture_precision!r}, wanted one of {', '.join(PICTURE_PRECISIONS)}"
    )


def _checked(precision: PicturePrecision, choice: BackendChoice) -> PicturePrecision:
    if (precision == "bf16" and choice.name != "native") or (precision == "fp32" and choice.gpu is not None):
        place = "on the CPU" if choice.gpu is None else "on a GPU"
        raise BackendUnavailableError(
            f"picture precision {precision}: found backend {choice.name} {place}, which hasn't got it; wanted backend "
            "native, or picture precision auto"
        )
    return precision


def _choose(
    backend: str, device: str | None, folder: Path, manifest: Manifest, *, deterministic: bool
) -> BackendChoice:
    if backend not in BACKENDS:
        raise BackendUnavailableError(f"backend: found {backend!r}, wanted one of {', '.join(BACKENDS)}")
    gpu = None if device is None else parse_device(device)
    if backend == "auto":
        return _best(device, gpu, folder, manifest, deterministic=deterministic)
    if deterministic and (backend == "tensorrt" or (backend == "onnxruntime" and gpu is not None)):
        raise BackendUnavailableError(
            f"deterministic on a GPU: found backend {backend}, whose kernels follow from the batch; wanted cuda, or "
            "the CPU, where it needs nothing"
        )
    if backend == "onnxruntime":
        return BackendChoice(gpu=gpu, deterministic=deterministic)
    if backend == "native":
        if gpu is not None:
            raise BackendUnavailableError(f"backend native: found device {device}, wanted cpu, which is where it runs")
        return BackendChoice(name="native", deterministic=deterministic)
    for name in GPU_BACKENDS:
        if name == backend:
            if device is not None and gpu is None:
                raise BackendUnavailableError(
                    f"backend {name}: found device {device}, wanted cuda:0 or another GPU; {ON_CPU}"
                )
            report = backend_reports(folder, manifest)[name]
            if not report.usable:
                raise BackendUnavailableError(f"backend {name} can't run here: {report.text}; {ON_CPU}")
            return BackendChoice(name=name, gpu=gpu or 0, deterministic=deterministic)
    raise AssertionError(f"{backend} is one of {BACKENDS}")


def _best(
    device: str | None, gpu: int | None, folder: Path, manifest: Manifest, *, deterministic: bool
) -> BackendChoice:
    names: tuple[BackendName, ...] = ("cuda",) if deterministic else GPU_BACKENDS
    if device is not None and gpu is None:
        return _best_on_cpu()
    if device is None and manifest.gpu is None:
        return _best_on_cpu()
    reports = backend_reports(folder, manifest)
    for name in names:
        if reports[name].usable:
            return BackendChoice(name=name, gpu=gpu or 0, deterministic=deterministic)
    if device is None:
        return _best_on_cpu()
    reasons = "; ".join(f"{name}: {reports[name].text}" for name in names)
    raise BackendUnavailableError(f"device {device} can't run this bundle: {reasons}; {ON_CPU}")


def _best_on_cpu() -> BackendChoice:
    # not at the top: the command line names backends before it needs any
    from trt_vqgan.runtime.native.build import find_library

    return CPU_CHOICE if find_library() is None else BackendChoice(name="native")


def parse_device(device: str) -> int | None:
    """Return the number of a GPU ("cuda" is "cuda:0"), None for "cpu".

    Raises
    ------
    BackendUnavailableError : anything else.
    """
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise BackendUnavailableError(f"device: found {device!r}, wanted cpu, cuda or cuda:N")
    return None if device == "cpu" else int(match[1] or 0)
