"""What an export refuses, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import BundleError, ExportError
from trt_vqgan.export.exporter import export_checkpoint


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
