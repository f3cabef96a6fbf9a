"""What repeated measurements amount to: percentiles of a latency, and a ratio of two with its spread."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trt_vqgan.errors import ShapeError

MOST_ROUNDS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one thing, in milliseconds.

    Attributes
    ----------
    n : measurements, after warm-up.
    p50_ms, p90_ms, p99_ms : percentiles, linear between measurements.
    mean_ms : what throughput follows from.
    rounds_ms : mean of each round, from which two runs are compared; empty in reports of before.
    """

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    rounds_ms: Sequence[float] = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster than a baseline.

    Attributes
    ----------
    median, low, high : over the interleaved pairs; low and high are the extremes, so nothing is hidden.
    n : pairs.
    """

    median: float
    low: float
    high: float
    n: int


def latency(seconds: Sequence[float], *, rounds: int | None = None) -> Latency:
    """Return the percentiles of measurements in seconds.

    Parameters
    ----------
    rounds : of equal length that they were taken in, one after the other; by default each of at most `MOST_ROUNDS` is.

    Raises
    ------
    ShapeError : there is none.
    """
    if not len(seconds):
        raise ShapeError("latency: found no measurement, wanted at least one")
    if rounds is not None and (rounds < 1 or len(seconds) % rounds):
        raise ShapeError(f"latency: found {len(seconds)} measurements, wanted as many in each of {rounds} rounds")
    times_ms = np.asarray(seconds, dtype=np.float64) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(times_ms, [50, 90, 99]))
    if rounds is None:
        rounds = len(times_ms) if len(times_ms) <= MOST_ROUNDS else 1
    means = times_ms.reshape(rounds, -1).mean(axis=1)
    return Latency(
        n=len(times_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times_ms.mean()),
        rounds_ms=tuple(means.tolist()),
    )


def speedup(baseline: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Return how many times faster ``ours`` is, from pairs of seconds that were measured beside each other.

    The ratio is taken inside each pair and the median over pairs, so that a machine whose speed drifts, or that was
    disturbed during one pair, moves the result little.

    Raises
    ------
    ShapeError : the two don't pair up, or there is no pair.
    """
    if len(baseline) != len(ours) or not len(ours):
        raise ShapeError(f"speedup: found {len(baseline)} and {len(ours)} measurements, wanted pairs, at least one")
    ratios = np.asarray(baseline, dtype=np.float64) / np.asarray(ours, dtype=np.float64)
    return Ratio(median=float(np.median(ratios)), low=float(ratios.min()), high=float(ratios.max()), n=len(ratios))
