"""``python -m trt_vqgan.benchmarks.compare A.json B.json``: how much faster or slower B is, row by row.

Times of two runs meet two states of the machine, so each row is told twice: by its own times, and, where torch ran
beside it, by how the ratio over torch moved, which cancels most of what the machine did.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.timings import Latency, Ratio
from trt_vqgan.errors import SpecError, TrtVqganError

NAMING_FACTS = ("sampling", "tokens", "axis", "value")
"""Facts that tell rows apart which are the same otherwise."""

MACHINE = ("cpu", "cpus", "threads")

Key = tuple[object, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One row of both reports.

    Attributes
    ----------
    name : of the row, for people.
    before, after : mean milliseconds.
    speed : times faster in the second report; low and high from the slowest and fastest rounds of both.
    against_torch : the same by the ratios over torch; None where either has none.
    """

    name: str
    before: float
    after: float
    speed: Ratio
    against_torch: Ratio | None

    @property
    def slower(self) -> bool:
        """Whether even the best reading of the row is slower; by the ratio over torch where there is one."""
        return (self.against_torch or self.speed).high < 1


def compare(before: Report, after: Report) -> list[Change]:
    """Return the changes of all timed rows that both reports have, in the order of the second.

    Raises
    ------
    SpecError : another machine or other threads, or no row in common.
    """
    for name in MACHINE:
        if before.machine.get(name) != after.machine.get(name):
            raise SpecError(
                f"{name}: found {before.machine.get(name)!r} and {after.machine.get(name)!r}, wanted two runs on the "
                "same machine with as many threads; times of two machines say nothing about the code"
            )
    old = {_key(row): row for row in before.rows if row.latency is not None}
    changes = [_change(old[_key(row)], row) for row in after.rows if row.latency is not None and _key(row) in old]
    if not changes:
        raise SpecError("the two reports have no timed row in common; measure the same parts of the same models")
    return changes


def only_in_one(before: Report, after: Report) -> tuple[list[str], list[str]]:
    """Return the names of timed rows that only the first, and only the second report has."""
    named = [{_key(row): _name(row) for row in report.rows if row.latency is not None} for report in (before, after)]
    first, second = ([name for key, name in own.items() if key not in other] for own, other in (named, named[::-1]))
    return first, second


def table(changes: Sequence[Change]) -> str:
    """Return the changes in columns, one line a row."""
    head = ("row", "before ms", "after ms", "× faster", "× faster against torch", "")
    lines = [head]
    for change in changes:
        against = "–" if change.against_torch is None else _ratio(change.against_torch)
        times = f"{change.before:.3g}", f"{change.after:.3g}"
        lines.append((change.name, *times, _ratio(change.speed), against, "SLOWER" if change.slower else ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _change(before: Row, after: Row) -> Change:
    old, new = before.latency, after.latency
    assert old is not None
    assert new is not None
    (fast_old, slow_old), (fast_new, slow_new) = _extremes(old), _extremes(new)
    against = None
    if before.speedup is not None and after.speedup is not None:
        first, second = before.speedup, after.speedup
        against = Ratio(
            median=second.median / first.median,
            low=second.low / first.high,
            high=second.high / first.low,
            n=min(first.n, second.n),
        )
    return Change(
        name=_name(after),
        before=old.mean_ms,
        after=new.mean_ms,
        speed=Ratio(
            median=old.mean_ms / new.mean_ms,
            low=fast_old / slow_new,
            high=slow_old / fast_new,
            n=min(len(old.rounds_ms), len(new.rounds_ms)),
        ),
        against_torch=against,
    )


def _extremes(latency: Latency) -> tuple[float, float]:
    """Return the fastest and the slowest round, milliseconds; the mean twice where rounds weren't kept."""
    rounds = latency.rounds_ms or (latency.mean_ms,)
    return min(rounds), max(rounds)


def _key(row: Row) -> Key:
    facts = tuple(str(row.facts.get(name)) for name in NAMING_FACTS)
    return row.what, row.model, row.runner, row.precision, row.batch, facts


def _name(row: Row) -> str:
    facts = " ".join(f"{name} {row.facts[name]}" for name in NAMING_FACTS if name in row.facts)
    return f"{row.what} {row.model} {row.runner} {row.precision} batch {row.batch} {facts}".rstrip()


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 with ``--fail`` if a row is slower beyond its spread."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--fail", action="store_true", help="exit with 1 if a row is slower beyond its spread")
    options = parser.parse_args(arguments)
    try:
        before, after = read_report(options.before), read_report(options.after)
        changes = compare(before, after)
    except (TrtVqganError, OSError) as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 1
    for report in (before, after):
        reads = report.read_bandwidth.get("best_gb_per_s")
        print(f"{report.started}, commit {report.commit}, memory {'–' if reads is None else f'{reads:.1f}'} GB/s")
    print(table(changes), end="")
    for which, names in zip(("first", "second"), only_in_one(before, after), strict=True):
        if names:
            print(f"only in the {which}: {', '.join(names)}")
    return int(options.fail and any(change.slower for change in changes))


if __name__ == "__main__":
    sys.exit(main())
