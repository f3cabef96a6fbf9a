"""The window benchmark on a tiny model: what it counts, and that its comparison can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.benchmarks.tiny_models import TINY
from trt_vqgan.benchmarks import window_rows
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.subjects import RandomSubject
from trt_vqgan.runtime.native.build import find_compiler
from trt_vqgan.runtime.window_generator import WindowGenerator


def measured(monkeypatch: pytest.MonkeyPatch) -> list[window_rows.Row]:
    monkeypatch.setattr(window_rows, "GRID", 24)
    monkeypatch.setattr(window_rows, "ROWS", slice(10, 12))
    monkeypatch.setattr(window_rows, "COLUMNS_OF_WEIGHTS", ((10, slice(0, 24)), (1 << 62, slice(0, 8))))
    spec = dataclasses.replace(TINY)
    subject = RandomSubject(spec, name="tiny", precisions=("fp32",))
    context = Context(batches=(1,), threads=1, repeats=1, bandwidth=None, say=lambda line: None)  # type: ignore[arg-type]
    context = dataclasses.replace(context, reference=object())  # type: ignore[arg-type]
    try:
        return window_rows.window_rows(subject, context)
    finally:
        subject.close()


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_row, *ours = measured(monkeypatch)
    assert torch_row.runner == "torch"
    assert torch_row.latency.n >= window_rows.TORCH_CODES - 1
    runners = ["native", "trt-vqgan"] if find_compiler() else ["trt-vqgan"]
    assert [row.runner for row in ours[::2]] == [row.runner for row in ours[1::2]] == runners
    for exact, shifted in zip(ours[::2], ours[1::2], strict=True):
        assert exact.facts["codes"] == 16
        assert exact.parity is not None
        assert exact.parity.ok
        assert exact.speedup is not None
        assert shifted.facts["positions_per_code"] < exact.facts["positions_per_code"]


def test_other_codes_break_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = WindowGenerator.generate

    def off_by_one(self: WindowGenerator, *arguments: object, **options: object) -> np.ndarray:
        return generate(self, *arguments, **options) + 1  # type: ignore[arg-type]

    monkeypatch.setattr(WindowGenerator, "generate", off_by_one)
    exact = measured(monkeypatch)[1]
    assert exact.parity is not None
    assert not exact.parity.ok
