"""Plots of the committed reports: drawn from their rows, and left out where there are none."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from trt_vqgan.benchmarks.plots import PLOTS, draw_all, main
from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.rows import NATIVE, OURS, Row
from trt_vqgan.benchmarks.timings import latency

pytest.importorskip("matplotlib")

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "cpu.json"


def rows_of_all_kinds() -> list[Row]:
    one = Row(what="", model="2x64", runner=NATIVE, precision="fp32", batch=1, latency=latency([0.01, 0.02]))
    facts = {"weight_bytes": 1000, "cache_bytes": 10}
    start = {"load_s": 0.2, "first_picture_s": 0.5}
    return [
        *(dataclasses.replace(one, what="step", batch=b, rates={"codes/s": 9.0 * b}, facts=facts) for b in (1, 2)),
        *(dataclasses.replace(one, what="decode", model=f"f16 {side}x{side}") for side in (128, 256)),
        dataclasses.replace(one, what="memory", facts={"peak_bytes": 10**9, "allowed_bytes": 2 * 10**9}),
        dataclasses.replace(one, what="window", runner=OURS, precision="moves every 1"),
        dataclasses.replace(one, what="start-up", facts=start),
        *(
            dataclasses.replace(one, what="growth", facts={"axis": axis, "value": value, "expected_ms": 1.0})
            for axis in ("positions", "batch", "width")
            for value in (1, 2)
        ),
    ]


def test_every_plot_is_drawn_and_differs() -> None:
    report = dataclasses.replace(read_report(REPORT), rows=tuple(rows_of_all_kinds()))
    drawn = draw_all([report])
    assert set(drawn) == set(PLOTS)
    assert len(set(drawn.values())) == len(PLOTS)
    for png in drawn.values():
        assert Image.open(io.BytesIO(png)).size == (770, 462)


@pytest.mark.parametrize("what", ["step", "decode", "memory", "window", "start-up", "growth"])
def test_a_plot_without_rows_is_left_out(what: str) -> None:
    rows = tuple(row for row in rows_of_all_kinds() if row.what != what)
    report: Report = dataclasses.replace(read_report(REPORT), rows=rows)
    assert 0 < len(draw_all([report])) < len(PLOTS)


def test_lines_are_where_the_numbers_are() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    report = dataclasses.replace(read_report(REPORT), rows=tuple(rows_of_all_kinds()))
    figure, axes = pyplot.subplots()
    assert PLOTS["codes-per-second"](axes, [report])
    assert list(axes.lines[0].get_ydata()) == [9.0, 18.0]
    best = report.read_bandwidth["best_gb_per_s"] * 1e9
    assert list(axes.lines[1].get_ydata()) == pytest.approx([best / 1005, 2 * best / 1005])
    pyplot.close(figure)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(REPORT), "-o", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "latency.png").is_file()
    assert main([str(tmp_path / "none.json"), "-o", str(tmp_path)]) == 1
    assert "plots: error:" in capsys.readouterr().err
