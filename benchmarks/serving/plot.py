"""The plot of a report on serving."""

from __future__ import annotations

import io
from typing import Any

from trt_vqgan.extras import import_module

DPI = 110
CODES, PICTURES = "#1f5fa8", "#c2571a"


def plot_png(report: dict[str, Any]) -> bytes:
    """Return a PNG: codes a second and latency against the number of clients, a line for each kind of server.

    Raises
    ------
    MissingDependencyError : matplotlib isn't installed.
    """
    figure_module: Any = import_module("matplotlib.figure")
    figure = figure_module.Figure(figsize=(8.4, 3.6), layout="constrained")
    speed, latency = figure.subplots(1, 2)
    rows = report["rows"]
    counts = sorted({row["threads"] for row in rows})
    for threads, style in zip(counts, ("-", "--", ":", "-."), strict=False):
        of = "1 thread" if threads == 1 else f"{threads} threads"
        for pictures, colour, what in ((False, CODES, "codes"), (True, PICTURES, "decoded pictures")):
            chosen = [row for row in rows if row["threads"] == threads and row["pictures"] == pictures]
            clients = [row["clients"] for row in chosen]
            label = f"{what}, {of}"
            speed.plot(clients, [row["codes_per_s"] for row in chosen], "o" + style, color=colour, label=label)
            latency.plot(clients, [row["p99_ms"] for row in chosen], "o" + style, color=colour, label=label)
    clients = sorted({row["clients"] for row in rows})
    speed.set(xlabel="clients", ylabel="codes a second", ylim=(0, None))
    latency.set(xlabel="clients", ylabel="ms a request of 256 codes, p99", ylim=(0, None))
    for axes in (speed, latency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(clients, [str(number) for number in clients])
        axes.grid(color="#eeeeee")
    figure.legend(*speed.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
