"""The plot of a report on serving."""

from __future__ import annotations

import io
from typing import Any

from trt_vqgan.extras import import_module

DPI = 110
CODES, PICTURES, LIMIT = "#1f5fa8", "#c2571a", "#999999"


def plot_png(report: dict[str, Any]) -> bytes:
    """Return a PNG: codes a second and latency against the number of clients.

    Raises
    ------
    MissingDependencyError : matplotlib isn't installed.
    """
    figure_module: Any = import_module("matplotlib.figure")
    figure = figure_module.Figure(figsize=(8.4, 3.4), layout="constrained")
    speed, latency = figure.subplots(1, 2)
    rows = {kind: [row for row in report["rows"] if row["pictures"] == kind] for kind in (False, True)}
    for kind, colour, label in ((False, CODES, "codes"), (True, PICTURES, "decoded pictures")):
        if rows[kind]:
            clients = [row["clients"] for row in rows[kind]]
            speed.plot(clients, [row["codes_per_s"] for row in rows[kind]], "o-", color=colour, label=label)
    codes = rows[False]
    clients = [row["clients"] for row in codes]
    alone = next((row["codes_per_s"] for row in codes if row["clients"] == 1), None)
    if alone is not None:
        speed.axhline(alone, color=LIMIT, linewidth=1, linestyle="--", label="one request at a time")
    speed.set(xlabel="clients", ylabel="codes a second", ylim=(0, None))
    for name, style in (("p50_ms", "-"), ("p99_ms", ":")):
        latency.plot(clients, [row[name] for row in codes], "o" + style, color=CODES, label=name.removesuffix("_ms"))
    latency.set(xlabel="clients", ylabel="ms a request (256 codes)", ylim=(0, None))
    for axes in (speed, latency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(clients, [str(number) for number in clients])
        axes.grid(color="#eeeeee")
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
