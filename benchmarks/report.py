"""A benchmark run as JSON: what was measured, where, with what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trt_vqgan.benchmarks.parity import Parity
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.timings import Latency, Ratio
from trt_vqgan.errors import SpecError

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything about one run.

    Attributes
    ----------
    command : as it was typed.
    started : UTC, ISO 8601.
    commit : of the source tree; None outside one.
    machine, versions : where it ran.
    settings : threads, repeats, batches.
    read_bandwidth : ``best_gb_per_s``, ``median_gb_per_s`` and ``n`` of reading memory in this run; empty if no
        measurement needed it.
    load_average : one-minute load before and after; far above the threads used, other work disturbed the run.
    rows : what was measured.
    schema : version of this format.
    """

    command: str
    started: str
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    read_bandwidth: dict[str, float]
    load_average: dict[str, Any]
    rows: tuple[Row, ...]
    schema: int = SCHEMA_VERSION

    @property
    def broken(self) -> tuple[Row, ...]:
        """Rows whose results are further from the reference than they may be."""
        return tuple(row for row in self.rows if row.parity is not None and not row.parity.ok)


def to_json(report: Report) -> str:
    """Return the report as JSON text."""
    return json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False) + "\n"


def read_report(path: Path) -> Report:
    """Return the report that a file holds.

    Raises
    ------
    SpecError : it is no report, or one of another schema.
    OSError : it can't be read.
    """
    again = "make it again with `trt-vqgan bench --json FILE`"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"{path}: is not valid JSON ({error}); {again}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise SpecError(f"{path}: report schema is {found!r}, this version reads schema {SCHEMA_VERSION}; {again}")
    try:
        rows = tuple(_row(row) for row in data.pop("rows"))
        return Report(rows=rows, **data)
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: is no report of this version ({error}); {again}") from None


def _row(data: dict[str, Any]) -> Row:
    parts = {"latency": Latency, "speedup": Ratio, "parity": Parity}
    made = {key: parts[key](**value) if key in parts and value is not None else value for key, value in data.items()}
    if made.get("latency") is not None:
        made["latency"] = dataclasses.replace(made["latency"], rounds_ms=tuple(made["latency"].rounds_ms))
    return Row(**made)
