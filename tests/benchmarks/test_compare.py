"""Two reports against each other: ratios worked out by hand, rows that don't match, and runs that can't be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trt_vqgan.benchmarks.compare import compare, main, only_in_one
from trt_vqgan.benchmarks.report import Report, to_json
from trt_vqgan.benchmarks.rows import NATIVE, TORCH, Row
from trt_vqgan.benchmarks.timings import Ratio, latency
from trt_vqgan.errors import SpecError


def row(seconds: list[float], *, speedup: Ratio | None = None, **changes: object) -> Row:
    made = Row(
        what="step",
        model="2x64",
        runner=NATIVE,
        precision="fp32",
        batch=1,
        latency=latency(seconds),
        rates={"codes/s": 1.0},
        speedup=speedup,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def report(*rows: Row, cpu: str = "one") -> Report:
    return Report(
        command="bench",
        started="2026-01-01",
        commit="c",
        machine={"cpu": cpu, "cpus": 2, "threads": 2},
        versions={},
        settings={},
        read_bandwidth={},
        load_average={},
        rows=rows,
    )


def test_ratios_and_their_spread() -> None:
    before = report(row([0.010, 0.012], speedup=Ratio(median=2.0, low=1.9, high=2.2, n=2)))
    after = report(row([0.005, 0.006], speedup=Ratio(median=4.0, low=3.8, high=4.4, n=2)))
    (change,) = compare(before, after)
    assert change.speed.median == pytest.approx(2.0)
    assert change.speed.low == pytest.approx(10 / 6)
    assert change.speed.high == pytest.approx(12 / 5)
    assert change.against_torch is not None
    assert change.against_torch.median == pytest.approx(2.0)
    assert change.against_torch.low == pytest.approx(3.8 / 2.2)
    assert change.against_torch.high == pytest.approx(4.4 / 1.9)
    assert not change.slower


def test_a_slower_machine_is_no_slower_row() -> None:
    before = report(row([0.010], speedup=Ratio(median=2.0, low=2.0, high=2.0, n=1)))
    after = report(row([0.030], speedup=Ratio(median=2.1, low=2.0, high=2.2, n=1)))
    (change,) = compare(before, after)
    assert change.speed.high < 1
    assert not change.slower


def test_rows_are_matched_by_all_that_names_them() -> None:
    first = report(row([0.01]), row([0.02], batch=8), row([0.03], facts={"sampling": "greedy"}))
    second = report(row([0.03], facts={"sampling": "greedy"}), row([0.01]), row([0.01], runner=TORCH))
    changes = compare(first, second)
    assert [change.before for change in changes] == pytest.approx([30, 10])
    old, new = only_in_one(first, second)
    assert old == ["step 2x64 native fp32 batch 8"]
    assert new == ["step 2x64 torch fp32 batch 1"]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(SpecError, match="same machine"):
        compare(report(row([0.01])), report(row([0.01]), cpu="two"))
    with pytest.raises(SpecError, match="no timed row in common"):
        compare(report(row([0.01])), report(row([0.01], batch=8)))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(to_json(report(row([0.010, 0.011]))))
    b.write_text(to_json(report(row([0.020, 0.021]))))
    assert main([str(a), str(b)]) == 0
    assert "0.51 (0.48–0.55)" in capsys.readouterr().out
    assert main([str(a), str(b), "--fail"]) == 1
    assert "SLOWER" in capsys.readouterr().out
    assert main([str(b), str(a), "--fail"]) == 0
    b.write_text("{}")
    assert main([str(a), str(b)]) == 1
    assert "compare: error:" in capsys.readouterr().err
