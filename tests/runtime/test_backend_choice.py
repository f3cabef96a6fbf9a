"""The choice of a backend: what was asked for, or one line that says what is missing and what works instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import trt_vqgan
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import GpuGraphs, Manifest, read_manifest
from trt_vqgan.runtime import backend_choice
from trt_vqgan.runtime.backend_choice import BackendChoice, choose_backend, parse_device
from trt_vqgan.runtime.backends import BackendReport
from trt_vqgan.runtime.native import build

USABLE = BackendReport(usable=True, text="on a GPU")
MISSING = BackendReport(usable=False, text="no NVIDIA driver on this machine")


@pytest.fixture
def manifest(demo_bundle: Path) -> Manifest:
    return read_manifest(demo_bundle)


@pytest.fixture(autouse=True)
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU kernels haven't been compiled, unless a test says so."""
    monkeypatch.setattr(build, "find_library", lambda: None)


def with_gpu_graphs(manifest: Manifest) -> Manifest:
    name = next(iter(manifest.files))
    segments = {f"segment_{i:02d}": name for i in range(manifest.model.transformer.num_layers + 1)}  # type: ignore[union-attr]
    graphs = {"encoder": name, "decoder": name} | segments
    return dataclasses.replace(manifest, gpu=GpuGraphs(precision="fp16", graphs=graphs, weights=name))


def report(monkeypatch: pytest.MonkeyPatch, tensorrt: BackendReport, cuda: BackendReport) -> None:
    reports = {"onnxruntime": USABLE, "tensorrt": tensorrt, "cuda": cuda}
    monkeypatch.setattr(backend_choice, "backend_reports", lambda folder, manifest: reports)


def test_devices() -> None:
    assert [parse_device(name) for name in ("cpu", "cuda", "cuda:0", "cuda:12")] == [None, 0, 0, 12]
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:1 ", "CPU"):
        with pytest.raises(BackendUnavailableError, match="wanted cpu, cuda or cuda:N"):
            parse_device(name)


def test_auto_takes_the_best_that_can_run(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, gpu = Path("bundle"), with_gpu_graphs(manifest)
    for tensorrt, cuda, name in ((USABLE, USABLE, "tensorrt"), (MISSING, USABLE, "cuda")):
        report(monkeypatch, tensorrt, cuda)
        assert choose_backend("auto", None, whole, gpu) == BackendChoice(name=name, gpu=0)  # type: ignore[arg-type]
        assert choose_backend("auto", "cuda:3", whole, gpu).gpu == 3
        assert choose_backend("auto", "cpu", whole, gpu) == BackendChoice()
        assert choose_backend("auto", None, whole, manifest) == BackendChoice(), "the bundle has no graphs for GPUs"
    report(monkeypatch, MISSING, MISSING)
    assert choose_backend("auto", None, whole, gpu) == BackendChoice()
    with pytest.raises(
        BackendUnavailableError, match="device cuda can't run this bundle: tensorrt: no NVIDIA driver.*cuda: no"
    ):
        choose_backend("auto", "cuda", whole, gpu)


def test_what_was_asked_for_is_taken_or_refused(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    report(monkeypatch, MISSING, USABLE)
    assert choose_backend("cuda", None, Path("bundle"), manifest) == BackendChoice(name="cuda", gpu=0)
    assert choose_backend("cuda", "cuda:1", Path("bundle"), manifest) == BackendChoice(name="cuda", gpu=1)
    assert choose_backend("onnxruntime", None, Path("bundle"), manifest) == BackendChoice()
    assert choose_backend("onnxruntime", "cuda", Path("bundle"), manifest) == BackendChoice(gpu=0)
    with pytest.raises(
        BackendUnavailableError, match="tensorrt can't run here: no NVIDIA driver.*--device cpu runs this"
    ):
        choose_backend("tensorrt", None, Path("bundle"), manifest)
    with pytest.raises(BackendUnavailableError, match="backend cuda: found device cpu, wanted cuda:0"):
        choose_backend("cuda", "cpu", Path("bundle"), manifest)
    with pytest.raises(BackendUnavailableError, match="wanted one of auto, native, onnxruntime, tensorrt, cuda"):
        choose_backend("fast", None, Path("bundle"), manifest)


def test_deterministic_pictures_on_a_gpu_take_our_own_kernels(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gpu = Path("bundle"), with_gpu_graphs(manifest)
    ours = BackendChoice(name="cuda", gpu=0, deterministic=True)
    report(monkeypatch, USABLE, USABLE)
    assert choose_backend("auto", None, whole, gpu, deterministic=True) == ours
    assert choose_backend("cuda", None, whole, gpu, deterministic=True) == ours
    for backend, device in (("tensorrt", None), ("onnxruntime", "cuda")):
        with pytest.raises(BackendUnavailableError, match=f"found backend {backend}, .* wanted cuda, or the CPU"):
            choose_backend(backend, device, whole, gpu, deterministic=True)
    report(monkeypatch, USABLE, MISSING)
    assert choose_backend("auto", None, whole, gpu, deterministic=True).gpu is None, "the CPU rather than TensorRT"
    assert choose_backend("onnxruntime", None, whole, gpu, deterministic=True).gpu is None


def test_auto_takes_the_cpu_kernels_where_they_are_built(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, native = Path("bundle"), BackendChoice(name="native")
    vqgan = dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, transformer=None, condition=None),
        class_names=(),
        null_class=None,
    )
    assert choose_backend("native", None, whole, manifest) == native, "asked for, it is compiled"
    assert choose_backend("auto", None, whole, manifest) == BackendChoice()
    monkeypatch.setattr(build, "find_library", lambda: Path("transformer.so"))
    assert choose_backend("auto", None, whole, manifest) == native
    assert choose_backend("auto", "cpu", whole, with_gpu_graphs(manifest)) == native
    assert choose_backend("onnxruntime", None, whole, manifest) == BackendChoice()
    assert choose_backend("auto", None, whole, vqgan) == native, "a VQGAN alone too"
    report(monkeypatch, MISSING, USABLE)
    assert choose_backend("auto", None, whole, with_gpu_graphs(manifest)) == BackendChoice(name="cuda", gpu=0)
    with pytest.raises(BackendUnavailableError, match="backend native: found device cuda:0, wanted cpu"):
        choose_backend("native", "cuda:0", whole, manifest)


@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_the_demo_on_a_gpu_that_has_no_graphs_for_it(demo_bundle: Path, backend: str) -> None:
    with pytest.raises(BackendUnavailableError, match="no graphs for GPUs.*--backend onnxruntime --device cpu"):
        trt_vqgan.load(demo_bundle, backend=backend)


def test_onnxruntime_on_a_gpu_needs_graphs_too(demo_bundle: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no graphs for GPUs"):
        trt_vqgan.load(demo_bundle, backend="onnxruntime", device="cuda:0")


def test_picture_precision_belongs_to_the_cpu_kernels(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path("bundle")
    for precision in ("auto", "fp32", "bf16"):
        choice = choose_backend("native", None, whole, manifest, picture_precision=precision)
        assert choice == BackendChoice(name="native", picture_precision=precision)  # type: ignore[arg-type]
    assert choose_backend("onnxruntime", None, whole, manifest, picture_precision="fp32").name == "onnxruntime"
    with pytest.raises(BackendUnavailableError, match="precision bf16: found backend onnxruntime on the CPU"):
        choose_backend("onnxruntime", None, whole, manifest, picture_precision="bf16")
    report(monkeypatch, USABLE, USABLE)
    with pytest.raises(BackendUnavailableError, match="precision fp32: found backend cuda on a GPU"):
        choose_backend("cuda", None, whole, with_gpu_graphs(manifest), picture_precision="fp32")
    with pytest.raises(BackendUnavailableError, match="found 'fp8', wanted one of auto, fp32, bf16"):
        choose_backend("native", None, whole, manifest, picture_precision="fp8")


def test_the_cpu_says_what_runs(demo_bundle: Path) -> None:
    with trt_vqgan.load(demo_bundle, backend="auto", device="cpu", threads=1) as pipe:
        assert (pipe.backend, pipe.backend_details) == ("onnxruntime", "onnxruntime")


def test_the_cpu_kernels_say_that_they_run(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if build.find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.undo()  # they have been compiled
    with trt_vqgan.load(demo_bundle, backend="native", threads=1) as pipe:
        assert pipe.backend == "native"
        assert pipe.backend_details.startswith("native (")
        alone = pipe.generate(class_id=1, seed=3, first_picture=1)
        together = pipe.generate(n=3, class_id=[0, 1, 2], seed=3)
    np.testing.assert_array_equal(alone.codes[0], together.codes[1])
