"""One run as a report: what is noted before, beside and after what it measures."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any

from trt_vqgan.benchmarks.machine import describe_machine, describe_versions, git_commit, load_average
from trt_vqgan.benchmarks.read_bandwidth import ARRAY_BYTES, ReadBandwidth
from trt_vqgan.benchmarks.report import Report
from trt_vqgan.benchmarks.rows import Row


def record(
    measure: Callable[[ReadBandwidth], Iterable[Row]],
    *,
    command: str,
    threads: int,
    settings: dict[str, Any],
    array_bytes: int = ARRAY_BYTES,
) -> Report:
    """Return the report of the rows that ``measure`` makes.

    Parameters
    ----------
    measure : given the bandwidth of reading memory, from which it may take samples.
    command : as it was typed.
    threads : of what is measured, and of reading memory.
    settings : of the run.
    array_bytes : that one sample reads.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load_before = load_average()
    reads: dict[str, float] = {}
    with ReadBandwidth(threads=threads, array_bytes=array_bytes) as bandwidth:
        rows = tuple(measure(bandwidth))
        samples = len(bandwidth.samples)
        if samples:
            reads = {
                "best_gb_per_s": bandwidth.best_gb_per_s,
                "median_gb_per_s": bandwidth.median_gb_per_s,
                "n": samples,
            }
    return Report(
        command=command,
        started=started,
        commit=git_commit(),
        machine=describe_machine(threads=threads),
        versions=describe_versions(),
        settings=settings,
        read_bandwidth=reads,
        load_average={"before": load_before, "after": load_average()},
        rows=rows,
    )
