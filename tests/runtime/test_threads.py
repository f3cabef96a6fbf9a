"""How many threads a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime import threads


@pytest.mark.parametrize(
    ("text", "processors", "wanted"),
    [("max 100000", 8, 8), ("200000 100000", 8, 2), ("150000 100000", 8, 2), ("50000 100000", 8, 1), ("junk", 3, 3)],
)
def test_the_quota_of_a_cgroup_lowers_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, processors: int, wanted: int
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text + "\n")
    monkeypatch.setattr(threads, "_CGROUP_V2", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)), raising=False)
    assert threads.available_threads() == wanted


def test_an_older_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quota").write_text("300000")
    (tmp_path / "period").write_text("100000")
    monkeypatch.setattr(threads, "_CGROUP_V2", tmp_path / "absent")
    monkeypatch.setattr(threads, "_CGROUP_V1", (tmp_path / "quota", tmp_path / "period"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert threads.available_threads() == 3
    (tmp_path / "quota").write_text("-1")
    assert threads.available_threads() == 16


def test_a_given_number_is_taken() -> None:
    assert threads.resolve_threads(7) == 7
    assert threads.resolve_threads(None) == threads.available_threads()
    with pytest.raises(ShapeError, match="at least 1"):
        threads.resolve_threads(0)
