"""What a check of a GPU found, as JSON. Every field is explained in docs/gpu.md."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.errors import SpecError

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Something that must hold.

    Attributes
    ----------
    name, ok : what, and whether it does.
    detail : the error beside what is allowed, or what went wrong.
    """

    name: str
    ok: bool
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """How long something takes, in microseconds.

    Attributes
    ----------
    name, shape : what was measured.
    median_us, p10, p90 : over the repetitions.
    bytes, flop : that it must move and compute at least; 0 where none are stated.
    floor_us : the time for that at this run's ceilings; None without them.
    of_floor : ``floor_us / median_us``, the part of the ceiling that was reached.
    baseline_us : median of what the name says torch did, in the same run; None without.
    """

    name: str
    shape: str
    median_us: float
    p10: float
    p90: float
    bytes: int
    flop: int
    floor_us: float | None
    of_floor: float | None
    baseline_us: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """What was left out, and why."""

    name: str
    reason: str


@dataclasses.dataclass(kw_only=True)
class Report:
    """A run so far.

    Attributes
    ----------
    commit : of the source tree; None outside one.
    device : ``name``, ``sm``, ``driver``, ``l2`` (bytes), ``clocks`` and what else the device stage says.
    ceilings : this device's limits as measured: ``copy`` and ``read`` in GB/s, ``fp16`` and ``mma_sync`` in TFLOP/s,
        ``gap_us``, ``gap_pdl_us`` and ``barrier_us``.
    answers : of libraries that were asked what they can do here.
    """

    commit: str | None
    device: dict[str, Any] = dataclasses.field(default_factory=dict)
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)
    answers: dict[str, str] = dataclasses.field(default_factory=dict)
    checks: list[Check] = dataclasses.field(default_factory=list)
    bench: list[Bench] = dataclasses.field(default_factory=list)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """Checks that don't hold."""
        return [check for check in self.checks if not check.ok]

    def add(self, record: dict[str, Any]) -> None:
        """Take what a stage wrote: ``kind`` is the name of a field here, the rest is its entry."""
        entry = dict(record)
        kind = entry.pop("kind")
        if kind in ("device", "ceilings", "answers"):
            getattr(self, kind).update(entry)
        else:
            made = {"checks": Check, "bench": Bench, "skipped": Skipped}[kind](**entry)
            getattr(self, kind).append(made)

    def write(self, path: Path) -> None:
        """Write all of it, at once or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"
        write_bytes(path, text.encode())


def read_report(path: Path) -> Report:
    """Return the report that a file holds.

    Raises
    ------
    SpecError : it is none, or of another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data.pop("schema")
        if schema != SCHEMA:
            raise SpecError(f"{path}: schema is {schema!r}, this version reads {SCHEMA}; run make gpu-check again")
        report = Report(
            commit=data["commit"], device=data["device"], ceilings=data["ceilings"], answers=data["answers"]
        )
        for kind in ("checks", "bench", "skipped"):
            for entry in data[kind]:
                report.add({"kind": kind} | entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: is no report of gpu-check ({error}); run make gpu-check again") from None
    return report


def result_name(device: str, commit: str | None) -> str:
    """Return the file name of a report: device and commit, in characters that every system takes."""
    short = "unknown" if commit is None else commit[:12] + ("-changes" if commit.endswith("+changes") else "")
    return f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{short}.json"
