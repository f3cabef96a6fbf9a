"""The whole pipeline: pictures a second, the time to the first one, and the memory that it takes."""

from __future__ import annotations

import statistics
import time

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.fresh_process import FreshRun, measure
from trt_vqgan.benchmarks.memory_formula import memory_budget
from trt_vqgan.benchmarks.parity import Int64Array, compare_codes
from trt_vqgan.benchmarks.rows import NATIVE, OURS, Row
from trt_vqgan.benchmarks.sequences import random_conditions
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.benchmarks.timings import latency
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.pipeline import Pipeline, Progress, load


def generate_rows(subject: Subject, context: Context) -> list[Row]:
    """Return, for each precision: a row a batch of generating, one of starting up, and a row a batch of memory."""
    rows = []
    for precision in subject.precisions:
        context.say(f"{subject.name} generate: loading {precision}")
        bundle = subject.bundle(precision)
        with load(bundle, threads=context.threads) as pipeline:
            alone: Int64Array | None = None
            for batch in context.batches:
                context.say(f"{subject.name} generate {precision} batch {batch}")
                row, alone = _generate_row(subject, context, pipeline, precision=precision, batch=batch, alone=alone)
                rows.append(row)
            runner = _runner(pipeline)
        rows += _fresh_rows(subject, context, precision, runner)
    return rows


def _generate_row(
    subject: Subject, context: Context, pipeline: Pipeline, *, precision: str, batch: int, alone: Int64Array | None
) -> tuple[Row, Int64Array]:
    """Return the row, and the codes int64 (h, w) of picture 0 made alone.

    Parity is that picture 0 of the batch has the codes that it has alone.
    """
    conditions = random_conditions(subject.spec, batch)
    if alone is None:  # the warm-up as well
        alone = pipeline.generate(condition_codes=conditions[:1], seed=0).codes[0]
    count = subject.spec.num_codes
    seconds, codes_seconds = [], []
    found = None
    for _ in range(context.repeats):
        codes_done = start = time.perf_counter()

        def on_progress(progress: Progress) -> None:
            nonlocal codes_done
            # the last call before pictures are decoded
            if progress.done_codes == progress.total_codes and not progress.pictures_done:
                codes_done = time.perf_counter()

        found = pipeline.generate(condition_codes=conditions, seed=0, batch_size=batch, on_progress=on_progress)
        seconds.append(time.perf_counter() - start)
        codes_seconds.append(codes_done - start)
    assert found is not None
    measured = latency(seconds)
    row = Row(
        what="generate",
        model=subject.name,
        runner=_runner(pipeline),
        precision=precision,
        batch=batch,
        latency=measured,
        rates={
            "pictures/s": batch * 1e3 / measured.mean_ms,
            "codes/s": batch * count * 1e3 / measured.mean_ms,
            "share spent decoding pictures": 1 - sum(codes_seconds) / sum(seconds),
        },
        parity=compare_codes(found.codes[0], alone, limit=1.0),
        facts={"codes_a_picture": count},
    )
    return row, alone


def _runner(pipeline: Pipeline) -> str:
    return NATIVE if pipeline.backend == "native" else OURS


def _fresh_rows(subject: Subject, context: Context, precision: str, runner: str) -> list[Row]:
    context.say(f"{subject.name} start-up {precision}")
    bundle = subject.bundle(precision)
    manifest = read_manifest(bundle)
    size_bytes = manifest.size_bytes
    first = [measure(bundle, pictures=1, threads=context.threads) for _ in range(context.repeats)]
    rows = [
        Row(
            what="start-up",
            model=subject.name,
            runner=runner,
            precision=precision,
            batch=1,
            latency=latency([run.wall_seconds for run in first]),
            facts={
                "load_s": statistics.median(run.load_seconds for run in first),
                "first_picture_s": statistics.median(run.wall_seconds for run in first),
                "bundle_bytes": size_bytes,
            },
        )
    ]
    for batch in context.batches:
        context.say(f"{subject.name} memory {precision} batch {batch}")
        run = first[0] if batch == 1 else measure(bundle, pictures=batch, threads=context.threads)
        rows.append(_memory_row(subject, run, runner=runner, precision=precision, batch=batch, bundle_bytes=size_bytes))
    return rows


def _memory_row(subject: Subject, run: FreshRun, *, runner: str, precision: str, batch: int, bundle_bytes: int) -> Row:
    budget = memory_budget(subject.spec, bundle_bytes=bundle_bytes, batch=batch)
    return Row(
        what="memory",
        model=subject.name,
        runner=runner,
        precision=precision,
        batch=batch,
        facts={
            "peak_bytes": run.peak_bytes,
            "allowed_bytes": budget.total_bytes,
            "bundle_bytes": budget.bundle_bytes,
            "cache_bytes": budget.cache_bytes,
            "activation_bytes": budget.activation_bytes,
            "within": None if run.peak_bytes is None else run.peak_bytes <= budget.total_bytes,
        },
    )
