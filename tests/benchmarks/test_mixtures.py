"""Mixtures of 8 and 4 bits on a tiny model: the graphs are what their names say, and every variant has its lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.benchmarks import choice_cost, mixtures
from trt_vqgan.benchmarks.rows import OURS
from trt_vqgan.benchmarks.shapes import model_of_shape

VARIANTS = ["int4", "2 of 8 in 8 bits", "4 of 8 in 8 bits", "int8"]


def test_graphs_of_a_shape(tmp_path: Path) -> None:
    spec = model_of_shape(2, width=64)
    found = mixtures.write_variants(spec, tmp_path)
    assert list(found) == VARIANTS
    sizes = [path.with_name("transformer.onnx.data").stat().st_size for path in found.values()]
    assert sizes == sorted(set(sizes)), "each has more bits than the one before"
    before = {path: path.stat().st_mtime_ns for path in found.values()}
    assert {path: path.stat().st_mtime_ns for path in mixtures.write_variants(spec, tmp_path).values()} == before


def test_ratios_are_taken_within_a_round() -> None:
    lines = mixtures._lines("step", OURS, 1, {"a": [[1.0, 9.0, 2.0], [4.0]], "b": [[4.0], [4.0]]})
    assert [(line.variant, line.median_ms, line.of_last) for line in lines] == [("a", 3000, 0.75), ("b", 4000, 1.0)]


def test_a_table_of_a_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--runner", OURS, "--batch", "2", "--steps", "3", "--rounds", "1", "--threads", "1"]
    mixtures.main(["--shape", "1x64", "--folder", str(tmp_path), *options])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[3]) for row in rows] == [
        (what, name)
        for what in ("| step", "| prefill")
        for name in ("int4", "1 of 4 in 8 bits", "2 of 4 in 8 bits", "int8")
    ]
    assert all(float(row[4]) > 0 for row in rows)
    assert rows[3][5] == "1.00 |"


def test_a_table_of_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_checkpoint(tmp_path / "run", kind="class")
    bundles = [str(trt_vqgan.export_checkpoint(run, tmp_path / name, precision=name)) for name in ("int4", "fp32")]
    options = ["--runner", OURS, "--batch", "1", "--steps", "3", "--rounds", "1", "--threads", "1"]
    mixtures.main([*bundles, *options])
    assert "| step | trt-vqgan | 1 | int4 |" in capsys.readouterr().out
    other = make_checkpoint(tmp_path / "other", kind="depth")
    foreign = str(trt_vqgan.export_checkpoint(other, tmp_path / "foreign"))
    with pytest.raises(SystemExit):
        mixtures.main([*bundles, foreign])
    with pytest.raises(SystemExit):
        mixtures.main([])
    assert "bundles" in capsys.readouterr().err


def test_what_a_choice_costs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.export.precision_choice.MEASURED_CODES", 1)
    monkeypatch.setattr("trt_vqgan.export.precision_choice.FEWEST_SEQUENCES", 1)
    choice_cost.main(["1x64"])
    output = capsys.readouterr().out
    assert "precision: drawing, 256 of 256 codes" in output
    assert "nats of mean divergence" in output
    assert "peak" in output
