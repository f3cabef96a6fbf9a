"""The golden models through ONNX Runtime and TensorRT: on the shim, with FP16 segments that ONNX Runtime's CPU runs."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.conftest import ROOT
from tests.runtime.gpu.shim_device import ShimDevice, libraries
from trt_vqgan.benchmarks.gpu_check import golden_executors_stage as stage
from trt_vqgan.benchmarks.gpu_check import golden_files
from trt_vqgan.benchmarks.gpu_check.golden_files import GoldenModel, prepare, read_goldens
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.engine_records import Profile
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.tensorrt_package import PACKAGES, RTX, TensorRT, find_tensorrt

RUN = ROOT / "tests" / "data" / "golden" / "class"
HALVES = ("attended", "qkv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("goldens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_files, "_runs", lambda: iter([RUN]))
        prepare(made)
    return made


@pytest.fixture(scope="module")
def golden(folder: Path) -> GoldenModel:
    """Its first codes only, which take a second."""
    libraries()
    (found,) = read_goldens(folder)
    arrays = {name: array if name == "c_indices" else array[:, :16] for name, array in found.arrays.items()}
    return dataclasses.replace(found, arrays=arrays)


class FakeSession:
    """A context of a TensorRT engine, as far as the executor sees it."""

    def __init__(self, graph: Path, factor: float) -> None:
        self.onnx = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.bound: dict[str, np.ndarray] = {}
        self.factor = factor

    def bind(self, name: str, pointer: int, shape: Sequence[int]) -> None:
        dtype = np.dtype(np.float16 if name in HALVES else np.float32)
        raw = (ctypes.c_byte * (int(np.prod(shape)) * dtype.itemsize)).from_address(pointer)
        self.bound[name] = np.frombuffer(raw, dtype).reshape(shape)

    def scratch_bytes(self) -> int:
        return 1000

    def bind_scratch(self, pointer: int, size_bytes: int) -> None:
        assert size_bytes >= 1000

    def capturable(self, stream_handle: int) -> bool:
        return True

    def enqueue(self, stream_handle: int) -> None:
        inputs = {item.name: self.bound[item.name] for item in self.onnx.get_inputs()}
        for output, value in zip(self.onnx.get_outputs(), self.onnx.run(None, inputs), strict=True):
            self.bound[output.name][...] = value * value.dtype.type(self.factor)


class FakeEngine:
    """A built segment; ``factor`` is what its results are wrong by."""

    def __init__(self, graph: Path, profiles: Sequence[Profile], factor: float = 1.0) -> None:
        assert [profile.purpose for profile in profiles] == ["decode", "prefill"]
        self.graph, self.factor = graph, factor

    def session(self, *, profile: int, stream_handle: int) -> FakeSession:
        return FakeSession(self.graph, self.factor)

    def save_compiled(self) -> None:
        """Nothing was."""


def ok_of(path: Path) -> list[bool]:
    return [record["ok"] for record in read_records(path)]


def test_onnxruntime_is_checked(golden: GoldenModel, tmp_path: Path) -> None:
    """Also planted: the segments of two layers swapped."""
    stage.check_on_onnxruntime(Records(tmp_path / "right", ceilings={}), golden, ShimDevice())
    found = read_records(tmp_path / "right")
    assert [record["ok"] for record in found] == [True] * 4
    assert found[0]["name"] == "golden class on onnxruntime: logits"
    first, second, *others = golden.segments[1:]
    wrong = dataclasses.replace(golden, segments=(golden.segments[0], second, first, *others))
    assert others, "two layers have no two segments to swap"
    stage.check_on_onnxruntime(Records(tmp_path / "wrong", ceilings={}), wrong, ShimDevice())
    assert ok_of(tmp_path / "wrong")[0] is False


def test_tensorrt_is_checked(golden: GoldenModel, tmp_path: Path) -> None:
    """Also planted: engines whose results are 5 % too large."""

    def check(path: Path, factor: float) -> list[bool]:
        def build(graph: Path, profiles: Sequence[Profile]) -> Any:
            return FakeEngine(graph, profiles, factor)

        stage.check_on_tensorrt(Records(path, ceilings={}), golden, ShimDevice(), build, title="TensorRT 0")
        return ok_of(path)

    assert check(tmp_path / "right", 1.0) == [True] * 4
    assert read_records(tmp_path / "right")[0]["name"] == "golden class on TensorRT 0: logits"
    assert check(tmp_path / "wrong", 1.05)[0] is False


class NamedShim(ShimDevice):
    architecture = (8, 6)


@contextmanager
def open_shim(index: int) -> Iterator[NamedShim]:
    yield NamedShim()


def records_of(folder: Path, path: Path) -> list[dict[str, Any]]:
    stage.run(Records(path, ceilings={}), Settings(goldens=str(folder)))
    return read_records(path)


def test_what_is_not_here_is_listed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str | None = None) -> TensorRT:
        raise BackendUnavailableError(f"{package} is not installed")

    monkeypatch.setattr(stage, "find_tensorrt", missing)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = records_of(folder, tmp_path / "records")
    assert {record["kind"] for record in found} == {"skipped"}
    reasons = {record["name"]: record["reason"] for record in found}
    assert set(reasons) == {"goldens on onnxruntime", *(f"goldens on {package}" for package in PACKAGES)}
    assert "has no CUDAExecutionProvider" in reasons["goldens on onnxruntime"]
    assert reasons["goldens on tensorrt_rtx"] == "tensorrt_rtx is not installed"
    assert "has none" in records_of(tmp_path / "nothing", tmp_path / "empty")[0]["reason"]


def test_a_run_checks_with_all_that_is_here(
    folder: Path, golden: GoldenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's GPU stands for itself, one TensorRT builds and the other doesn't know this GPU."""

    def found(package: str | None = None) -> TensorRT:
        return TensorRT(module=None, package=str(package), version="0")

    def builder(tensorrt: TensorRT, target: str) -> Any:
        assert target == "sm86"
        if tensorrt.package == RTX:
            raise BackendUnavailableError("target sm86: isn't among those")
        return FakeEngine

    monkeypatch.setattr(stage, "open_gpu", open_shim)
    monkeypatch.setattr(stage, "need_cuda_provider", lambda: None)
    monkeypatch.setattr(stage, "read_goldens", lambda folder: iter([golden, dataclasses.replace(golden, name="late")]))
    monkeypatch.setattr(stage, "find_tensorrt", found)
    monkeypatch.setattr(stage, "builder", builder)
    clock = iter([0.0, 1.0, stage.BUILD_SECONDS + 1])
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    records = records_of(folder, tmp_path / "records")
    checks = [record for record in records if record["kind"] == "checks"]
    assert [record["name"].partition(":")[0] for record in checks[::4]] == [
        "golden class on onnxruntime", "golden late on onnxruntime", "golden class on TensorRT 0",
    ]  # fmt: skip
    assert all(record["ok"] for record in checks)
    skipped = {record["name"]: record["reason"] for record in records if record["kind"] == "skipped"}
    assert skipped == {
        "golden late on tensorrt": "20 s went to others' engines",
        "goldens on tensorrt_rtx": "target sm86: isn't among those",
    }


def test_a_segment_is_really_built(golden: GoldenModel) -> None:
    """By TensorRT-RTX, which then has no GPU to load it on; and a target that it doesn't know is skipped."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    from trt_vqgan.export.engine_builder import build_engine
    from trt_vqgan.export.engine_profiles import segment_profiles

    tensorrt = find_tensorrt(RTX)
    with pytest.raises(BackendUnavailableError, match="sm90"):
        stage.builder(tensorrt, "sm90")
    assert callable(stage.builder(tensorrt, "sm86"))
    profiles = segment_profiles(golden.spec, has_attended=True)
    built = build_engine(golden.segments[1], tensorrt=tensorrt, targets=("sm86",), profiles=profiles)
    assert len(bytes(built.data)) > 1000
