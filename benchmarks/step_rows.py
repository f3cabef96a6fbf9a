"""Decode steps: what generating spends nearly all of its time on."""

from __future__ import annotations

import numpy as np

from trt_vqgan.benchmarks.arithmetic import step_weight_bytes
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.decode_steps import EngineSteps, StepRunner, StepTimes, time_steps
from trt_vqgan.benchmarks.engines import MeasuredEngine, open_engines
from trt_vqgan.benchmarks.parity import LOGITS_FP32, FloatArray, Parity, compare_logits, judge
from trt_vqgan.benchmarks.rows import TORCH, Row
from trt_vqgan.benchmarks.sequences import random_sequence
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.spec import TransformerSpec


def step_rows(subject: Subject, context: Context) -> list[Row]:
    """Return a row a batch, precision and engine, and one a batch for torch.

    A step appends one code to each row of the batch. All codes of a picture are stepped through, so that times are
    averages over short and long caches.
    """
    spec = subject.spec.transformer
    assert spec is not None
    engines = open_engines(subject, context, what="step")
    rows = []
    for batch in context.batches:
        rows += _rows_of_batch(subject, context, engines, batch)
    return rows


def _rows_of_batch(subject: Subject, context: Context, engines: list[MeasuredEngine], batch: int) -> list[Row]:
    spec, condition = subject.spec.transformer, subject.spec.condition
    assert spec is not None
    assert condition is not None
    tokens = random_sequence(subject.spec, batch)
    runners: dict[str, StepRunner] = {}
    if context.reference is not None:
        from trt_vqgan.benchmarks.torch_baseline import TorchSteps

        runners[TORCH] = TorchSteps(context.reference)
    for engine in engines:
        runners[engine.name] = EngineSteps(engine.engine, capacity=tokens.shape[1])
    prefix = condition.num_tokens
    times = time_steps(
        runners,
        tokens,
        prefix=prefix,
        rounds=context.repeats,
        read=context.bandwidth.sample,
        on_round=lambda done: context.say(f"{subject.name} step batch {batch}: round {done} of {context.repeats}"),
    )
    rows = []
    for measured_engine in [None, *engines] if TORCH in times else engines:
        runner = TORCH if measured_engine is None else measured_engine.runner
        precision = "fp32" if measured_engine is None else measured_engine.precision
        taken = times[TORCH if measured_engine is None else measured_engine.name]
        measured = latency(taken.all_steps(), rounds=len(taken.rounds))
        if measured_engine is None:
            weight_bytes = step_weight_bytes(spec, "fp32")
            cache_bytes = KVCache.bytes_needed(spec, batch=batch, capacity=tokens.shape[1])
        else:
            weight_bytes = measured_engine.weight_bytes
            cache_bytes = measured_engine.engine.cache_bytes(batch=batch, capacity=tokens.shape[1])
        share, machine = taken.share_of_reading(weight_bytes)
        rows.append(
            Row(
                what="step",
                model=subject.name,
                runner=runner,
                precision=precision,
                batch=batch,
                latency=measured,
                rates={
                    "codes/s": batch / (measured.mean_ms * 1e-3),
                    "GB/s of weights": weight_bytes / measured.mean_ms / 1e6,
                    "GB/s this machine reads": machine / 1e9,
                    "share of what it reads": share,
                },
                speedup=speedup(times[TORCH].sums(), taken.sums()) if measured_engine and TORCH in times else None,
                parity=None if measured_engine is None else _parity(context, times, measured_engine, tokens, prefix),
                facts={
                    "weight_bytes": weight_bytes,
                    "cache_bytes": cache_bytes,
                    "steps": tokens.shape[1] - prefix,
                },
            )
        )
    return rows


def _parity(
    context: Context,
    times: dict[str, StepTimes],
    engine: MeasuredEngine,
    tokens: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    prefix: int,
) -> Parity:
    """Compare with torch where it has the same weights, else with the same engine run over all tokens at once."""
    found = times[engine.name].logits
    if context.reference is not None and context.reference.own_weights:
        return compare_logits(found, times[TORCH].logits, precision=engine.precision)
    return compare_with_one_pass(engine.engine, tokens, found, first=prefix)


def compare_with_one_pass(
    engine: Engine,
    tokens: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    found: FloatArray,
    *,
    first: int,
) -> Parity:
    """Return how far logits of steps from ``first`` on are from those of one prefill over all ``tokens``."""
    spec: TransformerSpec = engine.spec
    rows = np.arange(first, tokens.shape[1], dtype=np.int64)
    cache = engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
    wanted = engine.prefill(cache, tokens, rows=rows, block=first, num_unmasked=min(spec.num_unmasked, first))
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    return judge("logits against one pass, max abs", difference, limit=LOGITS_FP32)
