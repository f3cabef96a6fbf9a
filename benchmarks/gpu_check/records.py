"""What a stage's process writes: one JSON object a line, each as soon as it is known, so that none is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trt_vqgan.benchmarks.gpu_check.floors import Ceilings, Work
from trt_vqgan.benchmarks.gpu_check.report import Bench, Check, Skipped
from trt_vqgan.benchmarks.timings import latency
from trt_vqgan.errors import BackendUnavailableError, MissingDependencyError


class Records:
    """The file that a stage writes.

    Parameters
    ----------
    path : of the file.
    ceilings : measured before, for floors.
    """

    def __init__(self, path: Path, *, ceilings: dict[str, float]) -> None:
        self._path = path
        self._ceilings = Ceilings.of(ceilings)

    def facts(self, kind: str, **values: Any) -> None:
        """Add to ``device`` or ``ceilings``."""
        self._write({"kind": kind, **values})

    def check(self, name: str, ok: bool, detail: str) -> None:
        """Add a check."""
        self._write({"kind": "checks", **dataclasses.asdict(Check(name=name, ok=ok, detail=detail))})

    def skip(self, name: str, reason: str) -> None:
        """Add what was left out."""
        self._write({"kind": "skipped", **dataclasses.asdict(Skipped(name=name, reason=reason))})

    def bench(
        self, name: str, shape: str, seconds: list[float], *, work: Work, baseline: list[float] | None = None
    ) -> None:
        """Add a measurement: seconds of each repetition, and those of what it is compared with."""
        self._write(
            {"kind": "bench", **dataclasses.asdict(bench_row(name, shape, seconds, work, self._ceilings, baseline))}
        )

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Let a part of a stage fail or be skipped by itself."""
        try:
            yield
        except (BackendUnavailableError, MissingDependencyError, ImportError) as error:
            self.skip(name, _first_line(error))
        except Exception as error:  # noqa: BLE001  a finding about this GPU, recorded as a failed check
            self.check(name, False, f"{type(error).__name__}: {_first_line(error)}")

    def verify(self, name: str, run: Callable[[], str]) -> None:
        """Add a check that holds if ``run`` returns (its detail) and doesn't raise."""
        try:
            detail = run()
        except Exception as error:  # noqa: BLE001  whatever a kernel does to us is the finding
            self.check(name, False, f"{type(error).__name__}: {_first_line(error)}")
            return
        self.check(name, True, detail)

    def _write(self, record: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")


def bench_row(
    name: str,
    shape: str,
    seconds: list[float],
    work: Work,
    ceilings: Ceilings,
    baseline: list[float] | None = None,
) -> Bench:
    """Return the row of a measurement."""
    found = latency(seconds)
    ordered = sorted(seconds)
    p10 = ordered[len(ordered) // 10] * 1e6
    floor = ceilings.floor_us(work)
    median = found.p50_ms * 1e3
    return Bench(
        name=name,
        shape=shape,
        median_us=median,
        p10=p10,
        p90=found.p90_ms * 1e3,
        bytes=work.bytes,
        flop=work.flop,
        floor_us=floor,
        of_floor=None if floor is None else floor / median,
        baseline_us=None if baseline is None else latency(baseline).p50_ms * 1e3,
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return what a stage wrote; a line that it didn't finish is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:3])[:400] if lines else type(error).__name__
