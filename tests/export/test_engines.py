"""Engines are really built, ahead of time with TensorRT-RTX and without a GPU, and what was built is inspected."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed: pip install 'trt-vqgan[tensorrt-rtx]'")

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.engine_records import choose_engine, read_engine, read_engine_records
from trt_vqgan.errors import BuildError, BundleError
from trt_vqgan.export import bundle_engines
from trt_vqgan.export.bundle_engines import USUAL_RTX_TARGETS, build_engines
from trt_vqgan.export.engine_builder import build_engine, check_targets, possible_targets
from trt_vqgan.export.engine_log import EngineReport
from trt_vqgan.export.engine_profiles import engine_profiles
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.export.graph_builder import GraphBuilder
from trt_vqgan.manifest import Manifest, read_manifest, verify_files
from trt_vqgan.tensorrt_package import RTX, find_tensorrt

TENSORRT = find_tensorrt(RTX)
PRODUCTS = ("gemm", "correlation", "runtime_fusion")


@pytest.fixture(autouse=True)
def _rtx_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_engines, "find_tensorrt", lambda: TENSORRT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with a condition's encoder and a Gumbel quantizer."""
    folder = tmp_path_factory.mktemp("engines")
    run = make_checkpoint(folder / "run", kind="depth", first_stage={"kind": "gumbel"})
    return export_checkpoint(run, folder / "bundle", gpu=True)


@pytest.fixture(scope="module")
def reports(exported: Path) -> dict[str, EngineReport]:
    """What the builds of all its engines tell."""
    return reports_of(exported, read_manifest(exported), USUAL_RTX_TARGETS)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smaller")
    run = make_checkpoint(folder / "run", kind="class")
    return export_checkpoint(run, folder / "bundle", gpu=True)


@pytest.fixture
def bundle(smaller: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(smaller, tmp_path / "bundle"))


def reports_of(folder: Path, manifest: Manifest, targets: tuple[str, ...]) -> dict[str, EngineReport]:
    """Build every GPU graph of a bundle and return what its build tells."""
    assert manifest.gpu is not None
    reports = {}
    for graph, file in manifest.gpu.graphs.items():
        profiles = engine_profiles(manifest.model, graph)
        built = build_engine(folder / file, tensorrt=TENSORRT, targets=targets, profiles=profiles)
        assert built.report is not None
        reports[graph] = built.report
    return reports


def check_reports(manifest: Manifest, reports: dict[str, EngineReport]) -> None:
    """Check names, shapes, dtypes, profiles and layer precisions of a bundle's engines."""
    for graph, report in reports.items():
        tensors = {tensor.name: tensor for tensor in report.tensors}
        found = {name: (tensor.is_input, tensor.dtype) for name, tensor in tensors.items()}
        assert found == wanted_tensors(manifest, graph), graph
        profiles = engine_profiles(manifest.model, graph)
        for name in profiles[0].shapes:
            wanted = tuple(dataclasses.astuple(profile.shapes[name]) for profile in profiles)
            assert tensors[name].profiles == wanted, (graph, name)
        products = [layer for layer in report.layers if layer.kind in PRODUCTS]
        assert products, graph
        allowed = wide_products(manifest, graph)
        wide = [layer.name for layer in products if layer.inputs[0] != "Half"]
        assert len(wide) <= allowed * len(profiles), (graph, wide)
        norms = [layer for layer in report.layers if "MeanSub" in layer.name]
        assert all(layer.inputs[0] == "Float" for layer in norms), "LayerNorm reads the float32 residual stream"
        assert bool(norms) == graph.startswith("segment")
        for layer in report.layers:
            before, softmax, _ = layer.name.partition("SubExpSum")
            assert not softmax or layer.inputs[0] == "Float" or "Cast" in before, f"{graph}: softmax of FP16"


def wanted_tensors(manifest: Manifest, graph: str) -> dict[str, tuple[bool, str]]:
    """Return name -> (whether an input, dtype)."""
    spec = manifest.model
    assert manifest.gpu is not None
    if graph == "decoder":
        return {"latents": (True, "Half"), "pixels": (False, "Half")}
    if graph.endswith("encoder"):
        stage = spec.autoencoder if graph == "encoder" else spec.condition.autoencoder  # type: ignore[union-attr]
        assert stage is not None
        output = {"codes": (False, "Int32")} if stage.quantizer == "gumbel" else {"z": (False, "Float")}
        return {"image": (True, "Float"), **output}
    index = manifest.gpu.segments.index(graph)
    last = len(manifest.gpu.segments) - 1
    tensors = {"x": (True, "Float")} | ({"attended": (True, "Half")} if index > 0 else {})
    if index == last:
        return tensors | {"logits": (False, "Float")}
    return tensors | {"qkv": (False, "Half")} | ({"x_out": (False, "Float")} if index > 0 else {})


def wide_products(manifest: Manifest, graph: str) -> int:
    """Return how many of a graph's products are float32 ones: an encoder's tail, and the head."""
    assert manifest.gpu is not None
    if graph.endswith("encoder"):
        return 2
    return 1 if graph == manifest.gpu.segments[-1] else 0


def test_every_engine_of_every_kind_for_all_targets(exported: Path, reports: dict[str, EngineReport]) -> None:
    assert {"encoder", "decoder", "condition_encoder", "segment_00"} < set(reports)
    check_reports(read_manifest(exported), reports)


def test_every_engine_of_the_trained_demo_for_all_targets(shared_dir: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(shared_dir / "checkpoints" / "landscape_class", tmp_path / "demo", gpu=True)
    manifest = read_manifest(folder)
    check_reports(manifest, reports_of(folder, manifest, USUAL_RTX_TARGETS))


@pytest.mark.parametrize(("graph", "part"), [("decoder", "gemm"), ("segment_01", "runtime_fusion")])
def test_the_check_of_precisions_can_fail(
    exported: Path, reports: dict[str, EngineReport], graph: str, part: str
) -> None:
    """A planted fault: a product in float32 where FP16 is meant."""
    layers = tuple(
        dataclasses.replace(layer, inputs=("Float",)) if layer.kind == part else layer
        for layer in reports[graph].layers
    )
    assert layers != reports[graph].layers
    with pytest.raises(AssertionError):
        check_reports(read_manifest(exported), {graph: dataclasses.replace(reports[graph], layers=layers)})


@pytest.mark.parametrize("target", USUAL_RTX_TARGETS)
def test_each_target_alone(exported: Path, target: str) -> None:
    manifest = read_manifest(exported)
    profiles = engine_profiles(manifest.model, "segment_01")
    built = build_engine(exported / "gpu/segment_01.onnx", tensorrt=TENSORRT, targets=(target,), profiles=profiles)
    assert memoryview(built.data).nbytes > 1000
    assert built.report is not None
    check_reports(manifest, {"segment_01": built.report})


def test_targets() -> None:
    assert set(USUAL_RTX_TARGETS) <= set(possible_targets(TENSORRT))
    assert check_targets(["sm120", "sm86", "sm86"], TENSORRT) == ("sm86", "sm120")
    with pytest.raises(BuildError, match=r"target sm90: TensorRT-RTX .* builds for sm80, .*--backend cuda"):
        check_targets(["sm86", "sm90"], TENSORRT)
    with pytest.raises(BuildError, match="target sm75: the kernels that run between engines need sm80"):
        check_targets(["sm75"], TENSORRT)
    with pytest.raises(BuildError, match="'ampere': wanted an architecture"):
        check_targets(["ampere"], TENSORRT)


def test_a_bundle_is_built_once_and_stays_the_same_bundle(bundle: Path) -> None:
    before = read_manifest(bundle)
    steps: list[tuple[str, int, int]] = []
    first = build_engines(bundle, targets=["sm89", "sm86"], on_engine=lambda *step: steps.append(step))
    assert before.gpu is not None
    assert set(first.built) == set(before.gpu.graphs)
    assert steps[-1] == ("", len(first.built), len(first.built))
    assert first.targets == ("sm86", "sm89")
    verify_files(bundle, read_manifest(bundle))
    assert read_manifest(bundle) == before
    assert {record.precisions.keys() >= {"Half"} for record in first.built.values()} == {True}
    with trt_vqgan.load(bundle) as pipeline:
        assert pipeline.bundle_id == before.bundle_id
    again = build_engines(bundle, targets=["sm86"])
    assert not again.built
    assert set(again.kept) == set(first.built)
    record = choose_engine(
        read_engine_records(bundle),
        graph="decoder",
        graph_sha256=before.gpu_graph_sha256("decoder"),
        package=RTX,
        version=trt.__version__,
        target="sm89",
    )
    assert read_engine(bundle, record)
    (bundle / record.key.file).unlink()
    assert set(build_engines(bundle, targets=["sm86", "sm89"]).built) == {"decoder"}


def test_a_bundle_without_gpu_graphs_is_refused(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="vq")
    folder = export_checkpoint(run, tmp_path / "bundle")
    with pytest.raises(BuildError, match="no graphs for GPUs; .*--gpu"):
        build_engines(folder)


def test_a_changed_graph_is_refused_before_anything_is_built(bundle: Path) -> None:
    with (bundle / "gpu" / "decoder.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"gpu/decoder\.onnx"):
        build_engines(bundle)
    assert not (bundle / "engines").exists()


def test_tensorrts_own_words_are_in_the_error(tmp_path: Path) -> None:
    import numpy as np

    def graph(op: str, domain: str = "") -> Path:
        builder = GraphBuilder("graph")
        x = builder.input("x", np.float32, ["B", 4])
        builder.output("y", np.float32, ["B", 4], builder.node(op, [x], domain=domain))
        path = tmp_path / f"{op}.onnx"
        path.write_bytes(builder.model().SerializeToString())
        return path

    with pytest.raises(BuildError, match="can't read it: .*Strange"):
        build_engine(graph("Strange", "own"), tensorrt=TENSORRT, targets=("sm86",), profiles=())
    # no profile for a dynamic input
    with pytest.raises(BuildError, match=r"can't build it for sm86\. TensorRT says: .*profile"):
        build_engine(graph("Relu"), tensorrt=TENSORRT, targets=("sm86",), profiles=())


def test_ctrl_c_ends_a_build(exported: Path) -> None:
    """TensorRT swallows what its callbacks raise, a KeyboardInterrupt too."""
    handler = signal.getsignal(signal.SIGINT)
    manifest = read_manifest(exported)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            reports_of(exported, manifest, ("sm86",))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_build_that_is_killed_leaves_a_usable_bundle(bundle: Path) -> None:
    code = (
        "import sys, trt_vqgan.export.bundle_engines as engines\n"
        "from trt_vqgan.tensorrt_package import find_tensorrt\n"
        f"engines.find_tensorrt = lambda: find_tensorrt({RTX!r})\n"
        "engines.build_engines(sys.argv[1], targets=['sm86'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(bundle)])
    try:
        deadline = time.monotonic() + 120
        while not read_engine_records(bundle) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finished = {record.key.graph for record in read_engine_records(bundle)}
    manifest = read_manifest(bundle)
    assert manifest.gpu is not None
    assert finished, "the build ended before an engine was recorded"
    verify_files(bundle, manifest)
    report = build_engines(bundle, targets=["sm86"])
    assert set(report.kept) == finished
    assert set(report.kept) | set(report.built) == set(manifest.gpu.graphs)
    assert not list((bundle / "engines").glob(".*"))
