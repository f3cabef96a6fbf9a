"""What a server measures of itself, in Prometheus' text."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from trt_vqgan.runtime.server.service import Service

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
PREFIX = "trt_vqgan"


class ServerMetrics:
    """Measurements of one application.

    Parameters
    ----------
    service : whose counts are told.
    """

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(service))
        self._requests = Histogram(
            f"{PREFIX}_request_seconds", "Time to a whole answer.", ("endpoint", "status"), buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        spent = Histogram(
            f"{PREFIX}_picture_seconds", "Time a picture waited for a row, was drawn, was decoded.", ("what",),
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._spent = {what: spent.labels(what) for what in ("wait", "draw", "decode")}
        service.on_seconds(lambda what, seconds: self._spent[what].observe(seconds))

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(endpoint, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Return everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Counts(Collector):
    """The scheduler's counts, read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        service, counts = self._service, self._service.counts()
        pictures = CounterMetricFamily(f"{PREFIX}_pictures", "Pictures that ended, by how.", labels=("outcome",))
        for outcome in ("finished", "cancelled", "overdue", "failed", "refused"):
            pictures.add_metric((outcome,), getattr(counts, outcome))
        yield pictures
        yield CounterMetricFamily(f"{PREFIX}_pictures_accepted", "Pictures that were accepted.", counts.accepted)
        yield CounterMetricFamily(f"{PREFIX}_codes", "Codes drawn or kept; rate() gives codes a second.", counts.codes)
        yield GaugeMetricFamily(f"{PREFIX}_queue_pictures", "Pictures that wait for a row.", counts.waiting)
        yield GaugeMetricFamily(f"{PREFIX}_running_pictures", "Pictures in the running batch.", counts.running)
        yield GaugeMetricFamily(f"{PREFIX}_requests_under_way", "Requests for pictures.", service.jobs)
        yield GaugeMetricFamily(f"{PREFIX}_ready", "Whether requests are taken.", int(service.ready))
        scheduler = service.scheduler
        sizes = [0] if scheduler is None else scheduler.batch_sizes()
        total, buckets = 0, []
        for rows, steps in enumerate(sizes):
            total += steps
            buckets.append((str(float(rows)), float(total)))
        yield HistogramMetricFamily(
            f"{PREFIX}_batch_rows",
            "Rows of each step.",
            buckets=[*buckets, ("+Inf", float(total))],
            sum_value=counts.rows,
        )
