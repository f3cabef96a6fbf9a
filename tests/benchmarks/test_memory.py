"""The memory formula and the process that is held against it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.tiny_models import TINY, tiny_subject
from trt_vqgan.benchmarks.fresh_process import measure, peak_bytes
from trt_vqgan.benchmarks.generate_rows import _memory_row
from trt_vqgan.benchmarks.memory_formula import decoder_activation_bytes, memory_budget
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.errors import TrtVqganError


def test_formula() -> None:
    spec = model_of_shape(12, width=768)
    budget = memory_budget(spec, bundle_bytes=1000, batch=8)
    assert budget.cache_bytes == 8 * 12 * 8 * 768 * 256
    assert budget.activation_bytes == 4 * (8 * 256 * 256 * 128 + 3 * 256 * 256)
    assert budget.total_bytes == 1000 + budget.cache_bytes + budget.activation_bytes + 300_000_000


def test_a_level_counts_with_the_width_from_below() -> None:
    assert decoder_activation_bytes(TINY.autoencoder) == 4 * (8 * 16 * 16 * 64 + 3 * 64 * 64)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's VmHWM")
def test_peak_is_of_the_whole_life() -> None:
    before = peak_bytes()
    assert before is not None
    block = bytearray(64 << 20)
    block[::4096] = b"1" * len(block[::4096])
    del block
    after = peak_bytes()
    assert after is not None
    assert after > 32 << 20
    assert after >= before


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrtVqganError, match="manifest"):
        measure(tmp_path, pictures=1, threads=1)


def test_planted_fault_too_much_memory_is_said() -> None:
    with tiny_subject() as subject:
        run = measure(subject.bundle("fp32"), pictures=1, threads=1)
        assert run.load_seconds + run.generate_seconds < run.wall_seconds
        row = _memory_row(subject, run, runner="onnxruntime", precision="fp32", batch=1, bundle_bytes=0)
        if run.peak_bytes is not None:
            assert row.facts["within"] is True
            greedy = _memory_row(subject, run, runner="onnxruntime", precision="fp32", batch=1, bundle_bytes=-(10**9))
            assert greedy.facts["within"] is False
