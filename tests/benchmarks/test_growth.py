"""The model of cost against numbers worked out by hand, and the measurement on a tiny model."""

from __future__ import annotations

import pytest

from tests.benchmarks.tiny_models import tiny_context
from trt_vqgan.benchmarks.arithmetic import step_operations, step_weight_bytes
from trt_vqgan.benchmarks.growth import expected_seconds, matrix_rate, measure
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=12, num_heads=12, hidden_size=768)


def test_operations_of_a_step() -> None:
    dense = 2 * (12 * 12 * 768**2 + 1024 * 768)
    assert step_operations(SPEC, batch=1, positions=0) == dense
    # scores and the mix of values: two operations each for a position, channel and layer
    assert step_operations(SPEC, batch=3, positions=100) == 3 * (dense + 4 * 12 * 768 * 100)


def test_expected_time_is_bytes_or_arithmetic() -> None:
    weights = step_weight_bytes(SPEC, "fp32")
    caches = 2 * 12 * 768 * 4 * 100
    few = expected_seconds(SPEC, "fp32", scale_bytes=4, batch=1, length=100, read=1e9, operations=1e12)
    assert few == pytest.approx((weights + caches) / 1e9)
    many = expected_seconds(SPEC, "fp32", scale_bytes=4, batch=512, length=100, read=1e15, operations=1e12)
    assert many == pytest.approx(step_operations(SPEC, batch=512, positions=100) / 1e12)
    unknown = expected_seconds(SPEC, "fp32", scale_bytes=4, batch=512, length=100, read=1e15, operations=None)
    assert unknown == pytest.approx((weights + 512 * caches) / 1e15)


def test_every_point_is_measured() -> None:
    with tiny_context() as context:
        rows = measure(
            layers=1,
            width=64,
            lengths=(16, 300),
            batches=(1, 3),
            widths=(32,),
            length=20,
            precisions=("fp32",),
            context=context,
            operations=1e11,
        )
    points = {(row.facts["axis"], row.facts["value"], row.batch, row.model) for row in rows}
    assert points == {
        ("positions", 16, 1, "1x64"),
        ("positions", 300, 1, "1x64"),
        ("batch", 1, 1, "1x64"),
        ("batch", 3, 3, "1x64"),
        ("width", 32, 1, "1x32"),
    }
    for row in rows:
        assert row.latency is not None
        assert len(row.latency.rounds_ms) == 2
        assert row.facts["expected_ms"] > 0


def test_matrix_rate_is_a_rate() -> None:
    assert 1e8 < matrix_rate(side=128) < 1e15
