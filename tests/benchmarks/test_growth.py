"""The model of cost against numbers worked out by hand, and the measurement on a tiny model."""

from __future__ import annotations

import pytest

from tests.benchmarks.tiny_models import TINY, tiny_context, tiny_subject
from trt_vqgan.benchmarks.arithmetic import step_operations
from trt_vqgan.benchmarks.engines import open_engines
from trt_vqgan.benchmarks.growth import _with_limit, matrix_rate, measure, step_bytes
from trt_vqgan.benchmarks.rows import NATIVE, Row
from trt_vqgan.benchmarks.timings import latency
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=12, num_heads=12, hidden_size=768)


def test_operations_of_a_step() -> None:
    dense = 2 * (12 * 12 * 768**2 + 1024 * 768)
    assert step_operations(SPEC, batch=1, positions=0) == dense
    # scores and the mix of values: two operations each for a position, channel and layer
    assert step_operations(SPEC, batch=3, positions=100) == 3 * (dense + 4 * 12 * 768 * 100)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_bytes_of_a_step(precision: str) -> None:
    """Our kernels keep caches in float16 where weights are rounded; ONNX Runtime's are float32."""
    spec = TINY.transformer
    assert spec is not None
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        for engine in open_engines(subject, context, what="growth"):
            if engine.precision == precision:
                number = 2 if engine.runner == NATIVE and precision == "int8" else 4
                caches = 3 * 2 * spec.num_layers * spec.hidden_size * number * 100
                assert step_bytes(engine, batch=3, length=100) == engine.weight_bytes + caches


@pytest.mark.parametrize(
    ("precision", "read", "operations", "wanted_ms"),
    [("fp32", 1e9, 1e12, 5.0), ("fp32", 1e12, 1e9, 7.0), ("int8", 1e12, 1e9, 0.005)],
)
def test_the_limit_is_bytes_or_arithmetic(precision: str, read: float, operations: float, wanted_ms: float) -> None:
    facts = {"bytes": 5_000_000, "operations": 7_000_000}
    row = Row(
        what="growth", model="m", runner=NATIVE, precision=precision, batch=1, latency=latency([0.01]), facts=facts
    )
    found = _with_limit(row, read=read, operations=operations)
    assert found.facts["expected_ms"] == pytest.approx(wanted_ms)
    assert found.rates["share of what the limit allows"] == pytest.approx(wanted_ms / 10)


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
