"""``python -m trt_vqgan.benchmarks.plots cpu.json growth.json … -o FOLDER``: the plots of docs/benchmarks.

Each plot is drawn from the rows that it needs, and left out where no report has them. A line's style says what ran
(solid our kernels, dashed ONNX Runtime, dotted torch), its colour the precision; grey is what the limit allows.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.rows import NATIVE, OURS, TORCH, Row
from trt_vqgan.errors import TrtVqganError
from trt_vqgan.extras import import_module

COLOURS = {"fp32": "#1f5fa8", "bf16": "#7b3fa0", "fp16 weights": "#3c9a9a", "int8": "#c2571a", "int4": "#2e8b3d"}
STYLES = {NATIVE: "-", OURS: "--", TORCH: ":"}
SHOWN = {NATIVE: "native", OURS: "ONNX Runtime", TORCH: "torch"}
LIMIT = "#999999"
DPI = 110

Axes = Any
Plot = Callable[[Axes, Sequence[Report]], bool]
"""Draws into axes; False where the reports don't have what it shows."""


def codes_per_second(axes: Axes, reports: Sequence[Report]) -> bool:
    """Codes a second against the batch, with what reading weights and caches once allows."""
    rows = [(report, row) for report, row in _rows(reports, "step") if row.model == _first_model(reports)]
    if len({row.batch for _, row in rows}) < 2:
        return False
    for (runner, precision), points in _series(rows).items():
        points.sort(key=lambda point: point[1].batch)
        axes.plot(
            [row.batch for _, row in points],
            [row.rates["codes/s"] for _, row in points],
            STYLES[runner],
            marker="o",
            markersize=4,
            color=COLOURS[precision],
            label=f"{SHOWN[runner]} {precision}",
        )
        if runner == NATIVE:
            limits = [
                row.batch
                * report.read_bandwidth["best_gb_per_s"]
                * 1e9
                / (row.facts["weight_bytes"] + row.facts["cache_bytes"] / 2)
                for report, row in points
            ]
            axes.plot([row.batch for _, row in points], limits, color=LIMIT, linewidth=1)
            axes.annotate(f"memory, {precision}", (points[0][1].batch, limits[0]), fontsize=7, color="#666666")
    axes.set(xscale="log", yscale="log", xlabel="pictures at once", ylabel="codes a second")
    _ticks(axes, sorted({row.batch for _, row in rows}))
    axes.set_title(f"Decode steps of {_first_model(reports)}; grey: the run's best memory reading")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))  # it would hide the limits' names
    return True


def latencies(axes: Axes, reports: Sequence[Report]) -> bool:
    """Median, 90th and 99th percentile of a step at batch 1."""
    rows = [row for _, row in _rows(reports, "step") if row.batch == 1 and row.model == _first_model(reports)]
    if not rows:
        return False
    names = [f"{SHOWN[row.runner]}\n{row.precision}" for row in rows]
    for place, row in enumerate(rows):
        assert row.latency is not None
        colour = COLOURS[row.precision]
        axes.plot([place, place], [row.latency.p50_ms, row.latency.p99_ms], color=colour, linewidth=1.5)
        for value, marker in ((row.latency.p50_ms, "o"), (row.latency.p90_ms, "_"), (row.latency.p99_ms, "^")):
            axes.plot([place], [value], marker=marker, color=colour, markersize=7)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set(yscale="log", ylabel="milliseconds a step")
    axes.set_title(f"Batch 1 of {_first_model(reports)}: median ●, 90 % –, 99 % ▲")
    return True


def decode_sizes(axes: Axes, reports: Sequence[Report]) -> bool:
    """Time of decoding a picture against its pixels."""
    rows = [(report, row) for report, row in _rows(reports, "decode") if _side(row) is not None]
    if len({row.model for _, row in rows}) < 2:
        return False
    for (runner, precision), points in _series(rows).items():
        chosen = {_side(row): row for _, row in points}
        sides = sorted(side for side in chosen if side is not None)
        times = [latency.mean_ms for side in sides if (latency := chosen[side].latency) is not None]
        axes.plot(
            sides,
            times,
            STYLES[runner],
            marker="o",
            markersize=4,
            color=COLOURS[precision],
            label=f"{SHOWN[runner]} {precision}",
        )
    axes.set(xscale="log", yscale="log", xlabel="side of the picture, pixels", ylabel="milliseconds a picture")
    _ticks(axes, sorted({side for _, row in rows if (side := _side(row)) is not None}))
    axes.set_title("Decoding by the published f16 VQGAN")
    axes.legend(fontsize=7)
    return True


def memory(axes: Axes, reports: Sequence[Report]) -> bool:
    """Peak memory of a whole process beside what the documented formula allows."""
    rows = [row for _, row in _rows(reports, "memory") if row.facts["peak_bytes"] is not None]
    if not rows:
        return False
    names = [f"{row.model}\n{row.precision}\nbatch {row.batch}" for row in rows]
    places = range(len(rows))
    axes.bar(places, [row.facts["allowed_bytes"] / 1e9 for row in rows], color="#dddddd", label="formula allows")
    axes.bar(
        places,
        [row.facts["peak_bytes"] / 1e9 for row in rows],
        width=0.5,
        color=[COLOURS[row.precision] for row in rows],
        label="measured",
    )
    axes.set_xticks(places, names, fontsize=7)
    axes.set(ylabel="GB, peak resident set")
    axes.set_title("Memory of generating")
    axes.legend(fontsize=7)
    return True


def windows(axes: Axes, reports: Sequence[Report]) -> bool:
    """Time of a code of a large picture by plan."""
    rows = [row for _, row in _rows(reports, "window") if row.latency is not None]
    if not rows:
        return False
    names = [f"{row.model}\n{SHOWN[row.runner]}\n{row.precision}" for row in rows]
    times = [row.latency.mean_ms for row in rows if row.latency is not None]
    colours = [{NATIVE: "#1f5fa8", OURS: "#7fa8d0", TORCH: "#999999"}[row.runner] for row in rows]
    bars = axes.bar(range(len(rows)), times, color=colours)
    axes.bar_label(bars, [f"{value:.3g}" for value in times], fontsize=7)
    axes.set_xticks(range(len(names)), names, fontsize=6)
    axes.set(yscale="log", ylabel="milliseconds a code")
    axes.set_title("Codes of a grid of 64x64 under a sliding window of 16x16")
    return True


def start_up(axes: Axes, reports: Sequence[Report]) -> bool:
    """From nothing to the first picture: start of the process and load, then making it."""
    rows = [row for _, row in _rows(reports, "start-up")]
    if not rows:
        return False
    names = [f"{row.model}\n{SHOWN[row.runner]} {row.precision}" for row in rows]
    loads = [row.facts["load_s"] for row in rows]
    rest = [row.facts["first_picture_s"] - row.facts["load_s"] for row in rows]
    axes.bar(range(len(rows)), loads, color="#7fa8d0", label="load")
    axes.bar(range(len(rows)), rest, bottom=loads, color="#c2571a", label="imports, codes and decoding")
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set(ylabel="seconds")
    axes.set_title("The first picture of a new process")
    axes.legend(fontsize=7)
    return True


def growth(axis: str, label: str) -> Plot:
    """Return the plot of a step's time along one axis of `trt_vqgan.benchmarks.growth`, beside the model of cost."""

    def draw(axes: Axes, reports: Sequence[Report]) -> bool:
        rows = [(report, row) for report, row in _rows(reports, "growth") if row.facts["axis"] == axis]
        if not rows:
            return False
        for (runner, precision), points in _series(rows).items():
            points.sort(key=lambda point: float(point[1].facts["value"]))
            values = [row.facts["value"] for _, row in points]
            style = {"color": COLOURS[precision], "markersize": 4}
            times = [row.latency.p50_ms for _, row in points if row.latency is not None]
            axes.plot(values, times, STYLES[runner], marker="o", label=f"{SHOWN[runner]} {precision}", **style)
            if runner == NATIVE:
                axes.plot(values, [row.facts["expected_ms"] for _, row in points], color=LIMIT, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="milliseconds a step")
        _ticks(axes, sorted({int(row.facts["value"]) for _, row in rows}))
        axes.set_title(f"A step against {label}; grey: what the limit allows")
        axes.legend(fontsize=7)
        return True

    return draw


PLOTS: dict[str, Plot] = {
    "codes-per-second": codes_per_second,
    "latency": latencies,
    "decode-sizes": decode_sizes,
    "memory": memory,
    "windows": windows,
    "start-up": start_up,
    "growth-positions": growth("positions", "positions in the cache"),
    "growth-batch": growth("batch", "pictures at once"),
    "growth-width": growth("width", "width of the model"),
}


def draw_all(reports: Sequence[Report]) -> dict[str, bytes]:
    """Return the PNG files of all plots that the reports have rows for, by name.

    Raises
    ------
    MissingDependencyError : matplotlib isn't installed.
    """
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    ticker: Any = import_module("matplotlib.ticker")
    drawn = {}
    for name, draw in PLOTS.items():
        figure, axes = pyplot.subplots(figsize=(7, 4.2))
        axes.grid(visible=True, which="major", alpha=0.25)
        if draw(axes, reports):
            if axes.get_yscale() == "log":  # 200, not 2 × 10²
                axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
                axes.minorticks_off()
            figure.tight_layout()
            file = io.BytesIO()
            # without the version of matplotlib: the same numbers give the same file
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
            drawn[name] = file.getvalue()
        pyplot.close(figure)
    return drawn


def _rows(reports: Iterable[Report], what: str) -> list[tuple[Report, Row]]:
    return [(report, row) for report in reports for row in report.rows if row.what == what]


def _first_model(reports: Sequence[Report]) -> str:
    rows = _rows(reports, "step")
    return rows[0][1].model if rows else ""


def _series(rows: Iterable[tuple[Report, Row]]) -> dict[tuple[str, str], list[tuple[Report, Row]]]:
    """Return the rows of each runner and precision."""
    series: dict[tuple[str, str], list[tuple[Report, Row]]] = {}
    for report, row in rows:
        if row.runner in STYLES and row.precision in COLOURS:
            series.setdefault((row.runner, row.precision), []).append((report, row))
    return series


def _side(row: Row) -> int | None:
    """Return 512 of a row of "f16 512x512"; None for other names."""
    _, _, size = row.model.partition(" ")
    width, cross, height = size.partition("x")
    return int(width) if cross and width.isdecimal() and width == height else None


def _ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()


def main(arguments: list[str] | None = None) -> int:
    """Draw the plots of the reports; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.plots", description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        drawn = draw_all([read_report(path) for path in options.reports])
        options.output.mkdir(parents=True, exist_ok=True)
        for name, png in drawn.items():
            write_bytes(options.output / f"{name}.png", png)
    except (TrtVqganError, OSError) as error:
        print(f"plots: error: {error}", file=sys.stderr)
        return 1
    print(f"{len(drawn)} plots: {', '.join(drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
