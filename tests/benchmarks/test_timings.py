"""Percentiles and ratios against numbers worked out by hand."""

from __future__ import annotations

import pytest

from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.errors import ShapeError


def test_percentiles() -> None:
    found = latency([i / 1000 for i in range(101)])  # 0 to 100 ms
    assert found.n == 101
    assert found.p50_ms == pytest.approx(50)
    assert found.p90_ms == pytest.approx(90)
    assert found.p99_ms == pytest.approx(99)
    assert found.mean_ms == pytest.approx(50)


def test_order_does_not_matter() -> None:
    assert latency([0.3, 0.1, 0.2]) == latency([0.1, 0.2, 0.3])


def test_no_measurement_is_refused() -> None:
    with pytest.raises(ShapeError, match="no measurement"):
        latency([])


def test_ratios_are_taken_inside_pairs() -> None:
    # the machine is ten times slower in the second pair; the ratio of medians would be 2, that of means 2.6
    found = speedup([2.0, 30.0, 4.0], [1.0, 10.0, 2.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, 2.0, 3.0, 3)


@pytest.mark.parametrize(("baseline", "ours"), [([1.0], []), ([], []), ([1.0, 2.0], [1.0])])
def test_what_does_not_pair_is_refused(baseline: list[float], ours: list[float]) -> None:
    with pytest.raises(ShapeError, match="wanted pairs"):
        speedup(baseline, ours)


def test_rounds_are_means_of_equal_parts() -> None:
    assert list(latency([0.1, 0.3, 0.5, 0.7], rounds=2).rounds_ms) == pytest.approx([200, 600])
    assert list(latency([0.1, 0.3]).rounds_ms) == pytest.approx([100, 300])
    assert len(latency([0.1] * 1000).rounds_ms) == 1
    with pytest.raises(ShapeError, match="3 measurements"):
        latency([0.1, 0.2, 0.3], rounds=2)
