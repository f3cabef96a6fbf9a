"""Which backends can run a bundle, and what is said of the others."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trt_vqgan.cli import main
from trt_vqgan.engine_records import EngineKey, store_engine
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.local_gpu import LocalGpu
from trt_vqgan.manifest import FileRecord, GpuGraphs, Manifest, read_manifest, segment_name, write_manifest
from trt_vqgan.runtime import backends, bundle_engines
from trt_vqgan.runtime.backends import backend_reports
from trt_vqgan.tensorrt_package import PACKAGES, RTX, TensorRT

GPU = LocalGpu(index=0, name="NVIDIA A40", compute_capability=(8, 6))
INSTALLED = TensorRT(module=None, package=RTX, version="1.7.1")


def with_gpu_graphs(manifest: Manifest) -> Manifest:
    """Return a manifest that has GPU graphs as well."""
    assert manifest.model.transformer is not None
    names = ["encoder", "decoder", *(segment_name(i) for i in range(manifest.model.transformer.num_layers + 1))]
    gpu = GpuGraphs(
        precision="fp16", graphs={name: f"gpu/{name}.onnx" for name in names}, weights="gpu/transformer.safetensors"
    )
    files = {name: FileRecord(sha256="a" * 64, size_bytes=1) for name in (*gpu.graphs.values(), str(gpu.weights))}
    return dataclasses.replace(manifest, gpu=gpu, files=manifest.files | files)


@pytest.fixture
def manifest(demo_bundle: Path) -> Manifest:
    return with_gpu_graphs(read_manifest(demo_bundle))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with everything."""

    def find(package: str | None = None) -> TensorRT:
        if package in (None, RTX):
            return INSTALLED
        raise BackendUnavailableError(f"{package} is not installed")

    monkeypatch.setattr(backends, "local_gpus", lambda: (GPU,))
    monkeypatch.setattr(backends, "_installed", lambda module: True)
    monkeypatch.setattr(backends, "find_tensorrt", find)
    monkeypatch.setattr(bundle_engines, "find_tensorrt", find)
    return monkeypatch


def store_all(folder: Path, manifest: Manifest, **changes: Any) -> None:
    assert manifest.gpu is not None
    for graph in manifest.gpu.graphs:
        values = {
            "graph": graph,
            "graph_sha256": manifest.gpu_graph_sha256(graph),
            "package": RTX,
            "version": "1.7.1",
            "targets": ("sm80", "sm86"),
            "profiles": (),
        }
        store_engine(folder, EngineKey(**(values | changes)), b"engine", precisions={}, made_by="0.1")


def told(folder: Path, manifest: Manifest) -> dict[str, str]:
    return {name: str(report) for name, report in backend_reports(folder, manifest).items()}


def test_a_machine_with_everything(machine: pytest.MonkeyPatch, tmp_path: Path, manifest: Manifest) -> None:
    assert told(tmp_path, manifest)["cuda"] == "yes, on NVIDIA A40 (sm86)"
    assert told(tmp_path, manifest)["tensorrt"].startswith("no, there is no engine of encoder; run `trt-vqgan build")
    store_all(tmp_path, manifest)
    assert told(tmp_path, manifest)["tensorrt"] == "yes, on NVIDIA A40 (sm86)"
    assert told(tmp_path, manifest)["onnxruntime"].startswith("yes, version ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "1.6.0"}, r"built by TensorRT-RTX 1.6.0, TensorRT-RTX 1.7.1 is here"),
        ({"targets": ("sm120",)}, "built for sm120, not for sm86"),
        ({"graph_sha256": "b" * 64}, "built from another graph or other weights"),
    ],
)
def test_engines_that_do_not_fit(
    machine: pytest.MonkeyPatch, tmp_path: Path, manifest: Manifest, changes: dict[str, Any], reason: str
) -> None:
    store_all(tmp_path, manifest, **changes)
    assert reason in told(tmp_path, manifest)["tensorrt"]
    assert told(tmp_path, manifest)["cuda"].startswith("yes")


def test_everything_that_is_missing_is_named(
    machine: pytest.MonkeyPatch, tmp_path: Path, manifest: Manifest, demo_bundle: Path
) -> None:
    def none() -> Any:
        raise BackendUnavailableError("no NVIDIA driver on this machine")

    machine.setattr(backends, "local_gpus", none)
    machine.setattr(backends, "_installed", lambda module: module != "pycuda")
    for report in (told(tmp_path, manifest)["cuda"], told(tmp_path, manifest)["tensorrt"]):
        assert report.startswith("no, no NVIDIA driver on this machine; pycuda not installed (`pip install")
    assert told(tmp_path, manifest)["tensorrt"].endswith("; no engines (`trt-vqgan build` makes them)")
    assert "no graphs for GPUs" in told(tmp_path, read_manifest(demo_bundle))["cuda"]


def test_a_gpu_that_is_too_old(machine: pytest.MonkeyPatch, tmp_path: Path, manifest: Manifest) -> None:
    old = LocalGpu(index=0, name="NVIDIA T4", compute_capability=(7, 5))
    machine.setattr(backends, "local_gpus", lambda: (old,))
    assert told(tmp_path, manifest)["cuda"] == "no, NVIDIA T4 is sm75, wanted sm80 or newer"


def test_without_tensorrt(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    report = told(tmp_path, manifest)["tensorrt"]
    assert "tensorrt is not installed, and tensorrt_rtx is not installed" in report


def test_info_shows_graphs_and_engines(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert "none; `trt-vqgan build` makes them" in CliRunner().invoke(main, ["info", str(tmp_path)]).stdout
    store_all(tmp_path, manifest)
    key = EngineKey(graph="decoder", graph_sha256="b" * 64, package=RTX, version="1", targets=("sm86",), profiles=())
    store_engine(tmp_path, key, b"old", precisions={}, made_by="0.1")
    text = CliRunner().invoke(main, ["info", str(tmp_path)]).stdout
    assert "decoder, encoder, 7 segments of the transformer" in text
    assert "TensorRT-RTX 1.7.1 for sm80, sm86: 9 of 9 graphs" in text
    assert "1 of other graphs or weights" in text
    report = json.loads(CliRunner().invoke(main, ["info", str(tmp_path), "--json"]).stdout)
    assert len(report["engines"]) == 10
    assert report["gpu"]["precision"] == "fp16"
    assert set(report["backends"]) == {"native", "onnxruntime", "cuda", "tensorrt"}
