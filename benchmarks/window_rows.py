"""Pictures larger than the training size: the sliding window beside the published loop, on a slice of a large grid."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.parity import Int64Array, Parity, judge
from trt_vqgan.benchmarks.rows import OURS, TORCH, Row
from trt_vqgan.benchmarks.subjects import RandomSubject, Subject
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.errors import SpecError
from trt_vqgan.extras import import_module
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.runtime.window_generator import WindowGenerator, WindowReport
from trt_vqgan.runtime.window_plan import plan_windows, positions_computed
from trt_vqgan.spec import ConditionSpec, ModelSpec

GRID = 64
SLICE_ROWS = slice(28, 32)
SLICE_COLUMNS = slice(0, 32)
SHIFT = 4

Greedy = Sampling(greedy=True)


def window_rows(subject: Subject, context: Context) -> list[Row]:
    """Return rows of the published loop, of the exact plan, and of windows that move every 4 codes.

    The grid has 64x64 codes with a condition of its own, as depth has; the codes of rows 28 to 31, columns 0 to 31 are
    drawn greedily, all others are given. Torch draws the first of these rows; the codes must be the same.
    """
    spec = conditioned(subject.spec)
    if not isinstance(subject, RandomSubject):
        raise SpecError("bench: window is measured of a --shape, with random weights")
    conditioned_subject = RandomSubject(spec, name=subject.name, precisions=("fp32",))
    try:
        return _rows(conditioned_subject, context)
    finally:
        conditioned_subject.close()


def conditioned(spec: ModelSpec) -> ModelSpec:
    """Return the model with a condition of as many codes as its picture."""
    assert spec.transformer is not None
    transformer = dataclasses.replace(spec.transformer, max_seq_len=2 * spec.num_codes)
    condition = ConditionSpec(
        kind="coordinates",
        num_tokens=spec.num_codes,
        coordinate_levels=spec.autoencoder.codebook_size - 1,
        coordinate_factor=spec.autoencoder.factor,
    )
    return dataclasses.replace(spec, transformer=transformer, condition=condition)


def _rows(subject: RandomSubject, context: Context) -> list[Row]:
    spec = subject.spec
    side, size = spec.autoencoder.latent_size, spec.autoencoder.codebook_size
    context.say(f"{subject.name} window: loading")
    assert spec.transformer is not None
    engine = TransformerEngine(subject.transformer("fp32"), spec.transformer, threads=context.threads)
    rng = np.random.default_rng(0)
    condition = rng.integers(0, size, (1, GRID, GRID))
    kept = rng.integers(0, size, (1, GRID, GRID))
    kept[0, SLICE_ROWS, SLICE_COLUMNS] = FREE

    def tokens(top: int, left: int) -> Int64Array:
        return condition[:, top : top + side, left : left + side].reshape(1, -1)

    rows: list[Row] = []
    wanted: Int64Array | None = None
    baseline: list[float] = []
    if context.reference is not None:
        baseline, wanted = _published(subject, context, tokens, kept[0])
        rows.append(_row(subject, TORCH, "as published", baseline))
    for shift in (1, SHIFT):
        context.say(f"{subject.name} window: moving every {shift}")
        report = WindowReport()
        started = time.perf_counter()
        codes = WindowGenerator(spec, engine).generate(
            tokens, kept=kept, sampling=Greedy, seed=0, pictures=np.zeros(1, np.int64), shift=shift, report=report
        )
        count = int((kept == FREE).sum())
        seconds = [(time.perf_counter() - started) / count]
        whole = plan_windows(np.ones((GRID, GRID), bool), side=side, shift=shift)
        facts = {
            "positions_per_code": report.positions_computed / count,
            "positions_per_code_of_the_whole_grid": positions_computed(whole, condition_tokens=side * side) / GRID**2,
            "peak_cache_bytes": report.peak_cache_bytes,
            "codes": count,
        }
        parity = None
        if wanted is not None and shift == 1:
            first = codes[0, SLICE_ROWS.start, SLICE_COLUMNS]
            parity = judge("equal codes, share", float((first == wanted).mean()), limit=1.0, at_least=True)
        rows.append(_row(subject, OURS, f"moves every {shift}", seconds, baseline, parity, facts))
    return rows


def _published(
    subject: RandomSubject, context: Context, tokens: Callable[[int, int], Int64Array], kept: Int64Array
) -> tuple[list[float], Int64Array]:
    """Return seconds a code of the published loop, and the codes of the slice's first row."""
    module = import_module("trt_vqgan.benchmarks.torch_baseline")
    reference = module.TorchReference(subject.spec, subject.weights, own_weights=True, threads=context.threads)
    side, size = subject.spec.autoencoder.latent_size, subject.spec.autoencoder.codebook_size
    row = SLICE_ROWS.start
    grid = np.where(kept == FREE, 0, kept)
    top = row - side // 2
    reference.prefill(np.zeros((1, 2 * side * side - 1), np.int64))  # weights are read, and memory is warm
    context.say(f"{subject.name} window: as published")
    times = []
    for column in range(SLICE_COLUMNS.start, SLICE_COLUMNS.stop):
        started = time.perf_counter()
        left = column - min(column, side // 2)
        window = grid[top : top + side, left : left + side].reshape(1, -1)
        logits = reference.prefill(np.concatenate([tokens(top, left), window], axis=1)[:, :-1])
        prediction = logits[0, -side * side :, :size][(row - top) * side + column - left]
        grid[row, column] = int(prediction.argmax())
        times.append(time.perf_counter() - started)
    return times, grid[row, SLICE_COLUMNS]


def _row(
    subject: RandomSubject,
    runner: str,
    how: str,
    seconds: list[float],
    baseline: list[float] | None = None,
    parity: Parity | None = None,
    facts: dict[str, float] | None = None,
) -> Row:
    measured = latency(seconds)
    ratio = speedup([float(np.mean(baseline))], [float(np.mean(seconds))]) if baseline else None
    rates = {"codes/s": 1e3 / measured.mean_ms}
    if facts is not None:
        rates["positions a code"] = facts["positions_per_code"]
    return Row(
        what="window",
        model=f"{subject.name}, {how}",
        runner=runner,
        precision="fp32",
        batch=1,
        latency=measured,
        rates=rates,
        speedup=ratio,
        parity=parity,
        facts=dict(facts or {}),
    )
