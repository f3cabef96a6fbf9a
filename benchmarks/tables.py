"""Rows of a report as a table, for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from trt_vqgan.benchmarks.parity import Parity
from trt_vqgan.benchmarks.report import Report
from trt_vqgan.benchmarks.rows import OURS, Row

COLUMNS = ("what", "model", "runs in", "batch", "n", "p50 ms", "p90 ms", "p99 ms", "rate", "× torch", "parity")
TEXT_COLUMNS = (0, 1, 2, 8, 10)
"""Columns that are aligned to the left."""

NONE = "–"


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows in columns of equal width, one line a row."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in TEXT_COLUMNS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    marks = [":--" if i in TEXT_COLUMNS else "--:" for i in range(len(COLUMNS))]
    lines = [COLUMNS, marks, *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def heading(report: Report) -> str:
    """Return two lines about the machine and the run."""
    machine, versions = report.machine, report.versions
    ram_bytes = machine.get("ram_bytes")
    ram = f", {ram_bytes / 1e9:.0f} GB" if ram_bytes else ""
    bandwidth = report.read_bandwidth
    reads = (
        f"; reads memory at {bandwidth['best_gb_per_s']:.1f} GB/s at best, {bandwidth['median_gb_per_s']:.1f} in the "
        f"median of {bandwidth['n']:.0f}"
        if bandwidth
        else ""
    )
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    before, after = report.load_average.get("before"), report.load_average.get("after")
    load = f"; load average {before:.1f} before, {after:.1f} after" if before is not None and after is not None else ""
    return f"{machine['cpu']}, {machine['threads']} threads of {machine['cpus']}{ram}{reads}{load}\n{named}\n"


def _cells(row: Row) -> tuple[str, ...]:
    latency = row.latency
    times = ["0" if latency is None else str(latency.n)]
    for name in ("p50_ms", "p90_ms", "p99_ms"):
        times.append(NONE if latency is None else _number(getattr(latency, name)))
    runs_in = row.precision if row.runner == OURS else f"{row.runner} {row.precision}"
    speed = row.speedup
    return (
        row.what,
        row.model,
        runs_in,
        str(row.batch),
        *times,
        _rate(row) or NONE,
        NONE if speed is None else f"{speed.median:.2f} ({speed.low:.2f}–{speed.high:.2f})",
        NONE if row.parity is None else _parity(row.parity),
    )


def _rate(row: Row) -> str:
    """Return what the row says beside its times."""
    if row.what == "memory":
        return _memory(row)
    if row.what == "start-up":
        return f"first picture after {row.facts['first_picture_s']:.2f} s, load {row.facts['load_s']:.2f} s"
    parts = []
    if row.what == "sampler":
        parts.append(str(row.facts["sampling"]))
    for unit, value in row.rates.items():
        if unit.startswith("share "):
            parts.append(f"{100 * value:.1f} % {unit.removeprefix('share ')}")
        else:
            parts.append(f"{_number(value)} {unit}")
    return ", ".join(parts)


def _memory(row: Row) -> str:
    peak, allowed = row.facts["peak_bytes"], row.facts["allowed_bytes"]
    if peak is None:
        return f"peak not known on this system, formula allows {allowed / 1e6:.0f} MB"
    verdict = "" if peak <= allowed else ": OVER"
    return f"peak {peak / 1e6:.0f} MB, formula allows {allowed / 1e6:.0f} MB{verdict}"


def _parity(parity: Parity) -> str:
    verdict = "" if parity.ok else f" BROKEN, limit {parity.limit:.3g}"
    return f"{parity.value:.2g} {parity.measure}{verdict}"


def _number(value: float) -> str:
    """Return a number with three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
