"""``trt-vqgan build``: what it says where it can't build, and that it builds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.cli import main
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.tensorrt_package import PACKAGES


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    return export_checkpoint(make_checkpoint(folder / "run", kind="vq"), folder / "bundle", gpu=True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_without_gpu_graphs_it_names_the_export(demo_bundle: Path) -> None:
    result = run("build", demo_bundle)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "no graphs for GPUs" in result.stderr
    assert "--gpu" in result.stderr
    assert not (demo_bundle / "engines").exists()


def test_without_tensorrt_it_says_what_is_missing_and_what_works(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    result = run("build", bundle)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    for part in (
        "tensorrt is not installed",
        "tensorrt_rtx is not installed",
        "pip install 'trt-vqgan[tensorrt-rtx]'",
        "generate --backend onnxruntime",
    ):
        assert part in result.stderr
    assert not (bundle / "engines").exists()


def test_no_bundle(tmp_path: Path) -> None:
    result = run("build", tmp_path)
    assert result.exit_code == 1
    assert "is no bundle" in result.stderr


class TestWithTensorRTRTX:
    """With the real builder."""

    @pytest.fixture(autouse=True)
    def _needs_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
        monkeypatch.setitem(sys.modules, "tensorrt", None)

    def test_builds_then_finds_all_up_to_date(self, bundle: Path) -> None:
        first = run("build", bundle, "--target", "sm86,sm89")
        assert first.exit_code == 0, first.stderr
        assert "2 engines built, 0 up to date, for sm86, sm89" in first.stdout
        again = run("build", bundle, "--target", "sm86", "--target", "sm89", "--json")
        report = json.loads(again.stdout)
        assert not report["built"]
        assert set(report["kept"]) == {"encoder", "decoder"}
        assert report["targets"] == ["sm86", "sm89"]

    @pytest.mark.parametrize(
        ("target", "message"),
        [("sm90", "for other GPUs build with full TensorRT"), ("hopper", "wanted an architecture")],
    )
    def test_a_target_that_it_cannot_build_for(self, bundle: Path, target: str, message: str) -> None:
        result = run("build", bundle, "--target", target)
        assert result.exit_code == 1
        assert target in result.stderr
        assert message in result.stderr
