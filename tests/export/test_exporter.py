"""What an export refuses, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import BundleError, ExportError
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.manifest import read_manifest


@pytest.mark.parametrize("settings", [{"null_class": 99}, {"class_names": ["one"]}, {"top_p": 2.0}])
def test_a_wrong_description_is_told_before_any_graph_is_written(tmp_path: Path, settings: dict) -> None:
    run = make_checkpoint(tmp_path / "run", kind="class")
    stages: list[str] = []
    with pytest.raises(BundleError):
        export_checkpoint(run, tmp_path / "bundle", on_progress=stages.append, **settings)
    assert stages == ["reading"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_stands_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="class")
    export_checkpoint(run, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match="exists"):
        export_checkpoint(run, tmp_path / "bundle", precision="int8")
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before
    export_checkpoint(run, tmp_path / "bundle", precision="int8", overwrite=True)
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() != before
    (tmp_path / "other").mkdir()
    with pytest.raises(ExportError, match="is no bundle"):
        export_checkpoint(run, tmp_path / "other", overwrite=True)


def test_graphs_for_gpus_are_added_and_leave_the_others_alone(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="segmentation")
    stages: list[str] = []
    plain = read_manifest(export_checkpoint(run, tmp_path / "plain"))
    manifest = read_manifest(export_checkpoint(run, tmp_path / "both", gpu=True, on_progress=stages.append))
    assert plain.gpu is None
    assert manifest.gpu is not None
    assert manifest.gpu.precision == "fp16"
    assert {"encoder", "decoder", "condition_encoder"} < set(manifest.gpu.graphs)
    assert manifest.model.transformer is not None
    assert len(manifest.gpu.segments) == manifest.model.transformer.num_layers + 1
    assert {"gpu encoder", "gpu decoder", "gpu condition_encoder", "gpu transformer"} <= set(stages)
    added = set(manifest.files) - set(plain.files)
    assert {name.split("/")[0] for name in added} == {"gpu"}
    assert {name: manifest.files[name] for name in plain.files} == plain.files
    assert manifest.bundle_id != plain.bundle_id
    with trt_vqgan.load(tmp_path / "both") as pipeline:
        assert pipeline.spec == manifest.model
