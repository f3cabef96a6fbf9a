"""Pictures larger than the training size: the sliding window beside the published loop, on part of a large grid."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.engines import open_engines
from trt_vqgan.benchmarks.interleaving import PAUSE_SECONDS
from trt_vqgan.benchmarks.parity import Int64Array, Parity, judge
from trt_vqgan.benchmarks.rows import TORCH, Row
from trt_vqgan.benchmarks.subjects import RandomSubject, Subject
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.errors import SpecError
from trt_vqgan.extras import import_module
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_generator import WindowGenerator, WindowReport
from trt_vqgan.runtime.window_plan import plan_windows, positions_computed, window_origin
from trt_vqgan.spec import ConditionSpec, ModelSpec

GRID = 64
SHIFT = 4

ROWS = slice(7, 11)
"""Rows that are drawn. In rows 0 to 8 the window stands at the border and is shared by all of them, later it moves with
each: of these four rows two share it. So a code costs about what it costs in the mean of the whole grid."""

COLUMNS_OF_WEIGHTS = ((64 << 20, slice(0, 64)), (1 << 62, slice(7, 11)))
"""Columns that are drawn, by the most float32 weights of the layers that they are for: a large model's take minutes."""

TORCH_CODES = 16
"""Codes that torch draws, spread over those that are drawn, and in turns with them."""

Greedy = Sampling(greedy=True)


def window_rows(subject: Subject, context: Context) -> list[Row]:
    """Return rows of the published loop and, for each engine, of the exact plan and of windows that move every 4 codes.

    The grid has 64x64 codes with a condition of its own, as depth has; some of them are drawn greedily, all others are
    given. Torch predicts codes of these with the published loop, in turns with the exact plan; they must be the same.
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
    assert spec.transformer is not None
    weights = 12 * spec.transformer.num_layers * spec.transformer.hidden_size**2
    columns = next(columns for most, columns in COLUMNS_OF_WEIGHTS if weights <= most)
    rng = np.random.default_rng(0)
    condition = rng.integers(0, size, (1, GRID, GRID))
    kept = rng.integers(0, size, (1, GRID, GRID))
    kept[0, ROWS, columns] = FREE

    def tokens(top: int, left: int) -> Int64Array:
        return condition[:, top : top + side, left : left + side].reshape(1, -1)

    whole = {shift: plan_windows(np.ones((GRID, GRID), bool), side=side, shift=shift) for shift in (1, SHIFT)}
    rows: list[Row] = []
    for measured in open_engines(subject, context, what="window"):
        published = None if context.reference is None else _Published(subject, context, tokens, kept[0])
        for shift in (1, SHIFT):
            context.say(f"{subject.name} window: {measured.name}, moving every {shift}")
            in_turn = published if shift == 1 else None
            codes, seconds, report = _drawn(spec, measured.engine, tokens, kept, shift, in_turn)
            count = int((kept == FREE).sum())
            facts = {
                "positions_per_code": report.positions_computed / count,
                "positions_per_code_of_the_whole_grid": positions_computed(whole[shift], condition_tokens=side * side)
                / GRID**2,
                "peak_cache_bytes": report.peak_cache_bytes,
                "codes": count,
            }
            parity = None
            if in_turn is not None:
                if not rows:
                    rows.append(_row(subject, TORCH, "as published", in_turn.seconds))
                found = [int(codes[0, row, column]) for row, column in in_turn.codes]
                same = np.array(found) == np.array(list(in_turn.codes.values()))
                parity = judge("equal codes, share", float(same.mean()), limit=1.0, at_least=True)
            baseline = None if published is None else published.seconds
            how = f"moves every {shift}"
            rows.append(_row(subject, measured.runner, how, [seconds / count], baseline, parity, facts))
    return rows


def _drawn(
    spec: ModelSpec,
    engine: Engine,
    tokens: Callable[[int, int], Int64Array],
    kept: Int64Array,
    shift: int,
    published: _Published | None,
) -> tuple[Int64Array, float, WindowReport]:
    """Return the codes, the seconds that drawing them took without torch's turns, and what was computed."""
    report = WindowReport()
    others = 0.0

    def torch_in_turn(codes: Int64Array) -> None:
        nonlocal others
        started = time.perf_counter()
        if published is not None:
            published.predict(codes[0])
        others += time.perf_counter() - started

    started = time.perf_counter()
    codes = WindowGenerator(spec, engine).generate(
        tokens,
        kept=kept,
        sampling=Greedy,
        seed=0,
        pictures=np.zeros(1, np.int64),
        shift=shift,
        report=report,
        on_codes=torch_in_turn,
        codes_every=max(1, int((kept == FREE).sum()) // TORCH_CODES),
    )
    return codes, time.perf_counter() - started - others, report


class _Published:
    """The published loop with torch: one code at a time, of codes that have just been drawn.

    Each is predicted from the codes before it, which the exact plan drew: all of them equal torch's if each does.

    Attributes
    ----------
    seconds : what each code took.
    codes : torch's code by (row, column).
    """

    def __init__(
        self,
        subject: RandomSubject,
        context: Context,
        tokens: Callable[[int, int], Int64Array],
        kept: Int64Array,
    ) -> None:
        module = import_module("trt_vqgan.benchmarks.torch_baseline")
        self._reference = module.TorchReference(
            subject.spec, subject.weights, own_weights=True, threads=context.threads
        )
        self._side, self._size = subject.spec.autoencoder.latent_size, subject.spec.autoencoder.codebook_size
        self._tokens, self._kept = tokens, kept
        self._seen = kept != FREE
        self.seconds: list[float] = []
        self.codes: dict[tuple[int, int], int] = {}
        self._reference.prefill(np.zeros((1, 2 * self._side**2 - 1), np.int64))  # weights are read, and memory is warm

    def predict(self, grid: Int64Array) -> None:
        """Predict the last of the codes that were drawn since the call before; ``grid`` int64 (h, w)."""
        new = np.argwhere((grid != FREE) & ~self._seen)
        self._seen = grid != FREE
        row, column = (int(place) for place in new[len(new) // 2])
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        side = self._side
        top, left = (window_origin(place, GRID, side=side) for place in (row, column))
        window = np.where(grid == FREE, 0, grid)[top : top + side, left : left + side].reshape(1, -1)
        logits = self._reference.prefill(np.concatenate([self._tokens(top, left), window], axis=1)[:, :-1])
        prediction = logits[0, -side * side :, : self._size][(row - top) * side + column - left]
        self.codes[row, column] = int(prediction.argmax())
        self.seconds.append(time.perf_counter() - started)
        time.sleep(PAUSE_SECONDS)


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
    # torch's median, because its threads wait for each other longer when something else runs: that's no gain of ours
    ratio = speedup([float(np.median(baseline))], [float(np.mean(seconds))]) if baseline else None
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
