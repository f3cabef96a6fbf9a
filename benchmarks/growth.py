"""``python -m trt_vqgan.benchmarks.growth --json growth.json``: how a decode step's time grows, beside what it should.

Along three axes: positions in the cache, rows of the batch, width of the model. Each point is a step over caches of
which only the length counts, with random weights. The model of cost is explained in docs/benchmarks/reading.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arguments import file_argument
from trt_vqgan.benchmarks.arithmetic import step_operations
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.engines import MeasuredEngine, open_engines
from trt_vqgan.benchmarks.interleaving import PAUSE_SECONDS
from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth
from trt_vqgan.benchmarks.recording import record
from trt_vqgan.benchmarks.report import Report, to_json
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.shapes import model_of_shape, with_positions
from trt_vqgan.benchmarks.subjects import RandomSubject
from trt_vqgan.benchmarks.timings import latency
from trt_vqgan.runtime.engine import Engine, Steps
from trt_vqgan.runtime.threads import resolve_threads

LENGTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16, 32)
WIDTHS = (256, 512, 768, 1024)
LAYERS, WIDTH, LENGTH = 12, 768, 256
"""What stays as it is along an axis."""

STEPS = 9
"""Of each round; the first is warm-up."""

MATRIX_SIDE = 2048


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement: ``axis`` is "positions", "batch" or "width", ``value`` its place on it."""

    axis: str
    value: int
    batch: int
    length: int


def step_bytes(engine: MeasuredEngine, *, batch: int, length: int) -> int:
    """Return the bytes that a step reads: the weights once, and ``length`` positions of each row's cache."""
    return engine.weight_bytes + engine.position_bytes * batch * length


def measure(
    *,
    layers: int,
    width: int,
    lengths: Sequence[int],
    batches: Sequence[int],
    widths: Sequence[int],
    length: int,
    precisions: Sequence[str],
    context: Context,
    operations: float,
) -> list[Row]:
    """Return a row a point, engine and precision.

    Parameters
    ----------
    operations : float32 operations a second that this machine reaches in a large product.
    """
    points = {width: [Point("positions", value, 1, value) for value in lengths]}
    points[width] += [Point("batch", value, value, length) for value in batches]
    for value in widths:
        points.setdefault(value, []).append(Point("width", value, 1, length))
    rows: list[Row] = []
    for size, chosen in points.items():
        spec = with_positions(model_of_shape(layers, width=size), max(point.length for point in chosen) + 1)
        subject = RandomSubject(spec, name=f"{layers}x{size}", precisions=tuple(precisions))
        try:
            engines = open_engines(subject, context, what="growth")
            for point in chosen:
                context.say(f"{subject.name}: {point.axis} {point.value}")
                rows += _rows(subject, engines, point, context)
        finally:
            subject.close()
    # the run's best reading: a few samples at a point may all meet a disturbance that its steps didn't
    return [_with_limit(row, read=context.bandwidth.best_gb_per_s * 1e9, operations=operations) for row in rows]


def _with_limit(row: Row, *, read: float, operations: float) -> Row:
    """Return a row with what the limits allow: ``read`` bytes and ``operations`` float32 operations a second."""
    facts = row.facts
    expected = facts["bytes"] / read
    if row.precision == "fp32":
        expected = max(expected, facts["operations"] / operations)
    assert row.latency is not None
    share = {"share of what the limit allows": expected / (row.latency.mean_ms * 1e-3)}
    return dataclasses.replace(row, rates=row.rates | share, facts=facts | {"expected_ms": expected * 1e3})


def _rows(subject: RandomSubject, engines: Sequence[MeasuredEngine], point: Point, context: Context) -> Iterator[Row]:
    spec = subject.spec.transformer
    assert spec is not None
    tokens = np.random.default_rng(0).integers(0, spec.vocab_size, (point.batch, point.length + 1))
    positions = np.full(point.batch, point.length, dtype=np.int64)
    steppers: dict[str, Steps] = {}
    for engine in engines:
        runs: Engine = engine.engine
        cache = runs.new_cache(batch=point.batch, capacity=point.length + 1)
        # memory that was never written isn't there yet: reading it is another thing
        runs.prefill(cache, tokens[:, :-1], rows=np.array([point.length - 1]))
        steppers[engine.name] = runs.stepper(cache)
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(context.repeats):
        for name, stepper in steppers.items():
            time.sleep(PAUSE_SECONDS)
            for number in range(STEPS):
                started = time.perf_counter()
                stepper.step(tokens[:, -1], positions)
                if number:
                    seconds[name].append(time.perf_counter() - started)
        time.sleep(PAUSE_SECONDS)  # or the threads of the last runner, still awake, slow the reading down
        context.bandwidth.sample()
    for engine in engines:
        taken = latency(seconds[engine.name], rounds=context.repeats)
        sizes = {"batch": point.batch, "length": point.length}
        yield Row(
            what="growth",
            model=subject.name,
            runner=engine.runner,
            precision=engine.precision,
            batch=point.batch,
            latency=taken,
            rates={"codes/s": point.batch / (taken.mean_ms * 1e-3)},
            facts={
                "axis": point.axis,
                "value": point.value,
                "positions": point.length,
                "bytes": step_bytes(engine, **sizes),
                "operations": step_operations(spec, batch=point.batch, positions=point.length),
            },
        )


def matrix_rate(side: int = MATRIX_SIDE) -> float:
    """Return float32 operations a second of NumPy's product of two square matrices, the best of five."""
    a, b = (np.random.default_rng(i).standard_normal((side, side), dtype=np.float32) for i in range(2))
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        _ = a @ b
        taken.append(time.perf_counter() - started)
    return 2 * side**3 / min(taken)


def run(*, repeats: int, threads: int | None, precisions: Sequence[str], say: Callable[[str], None]) -> Report:
    """Measure all three axes of a model of 12 layers and return the report."""
    count = resolve_threads(threads)
    operations = matrix_rate()

    def rows(bandwidth: ReadBandwidth) -> list[Row]:
        return measure(
            layers=LAYERS,
            width=WIDTH,
            lengths=LENGTHS,
            batches=BATCHES,
            widths=WIDTHS,
            length=LENGTH,
            precisions=precisions,
            context=Context(batches=BATCHES, threads=count, repeats=repeats, bandwidth=bandwidth, say=say),
            operations=operations,
        )

    return record(
        rows,
        command=" ".join(["python -m trt_vqgan.benchmarks.growth", *sys.argv[1:]]),
        threads=count,
        settings={"repeats": repeats, "precisions": list(precisions), "matrix_gflop_per_s": operations / 1e9},
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.growth", description=__doc__)
    parser.add_argument("--json", type=file_argument, required=True)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"))
    options = parser.parse_args(arguments)
    report = run(
        repeats=options.repeats,
        threads=options.threads,
        precisions=options.precision or ("fp32", "int8"),
        say=lambda line: print(f"growth: {line}", file=sys.stderr),
    )
    write_bytes(options.json, to_json(report).encode())


if __name__ == "__main__":
    main()
