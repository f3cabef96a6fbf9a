"""Prefill: many tokens at once, which is what long conditions and scoring cost."""

from __future__ import annotations

import numpy as np

from trt_vqgan.benchmarks.arithmetic import prefill_operations
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.engines import MeasuredEngine, open_engines
from trt_vqgan.benchmarks.interleaving import Work, in_turn
from trt_vqgan.benchmarks.parity import LOGITS_FP32, Int64Array, Parity, compare_logits, judge
from trt_vqgan.benchmarks.rows import TORCH, Row
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.spec import TransformerSpec

TOKENS = 256


def prefill_rows(subject: Subject, context: Context) -> list[Row]:
    """Return a row a batch, precision and engine, and one a batch for torch.

    256 tokens (fewer where the model holds fewer) fill an empty cache, and logits come out for the last. Torch
    computes the logits of all tokens, as published.
    """
    spec = subject.spec.transformer
    assert spec is not None
    length = min(TOKENS, spec.max_seq_len)
    engines = open_engines(subject, context, what="prefill")
    rows = []
    for batch in context.batches:
        tokens = np.random.default_rng(0).integers(0, subject.spec.autoencoder.codebook_size, (batch, length))
        context.say(f"{subject.name} prefill batch {batch}")
        rows += _rows_of_batch(subject, context, engines, tokens)
    return rows


def _rows_of_batch(subject: Subject, context: Context, engines: list[MeasuredEngine], tokens: Int64Array) -> list[Row]:
    spec = subject.spec.transformer
    assert spec is not None
    batch, length = tokens.shape
    reference = context.reference
    contenders: dict[str, Work] = {}
    if reference is not None:
        contenders[TORCH] = lambda: reference.prefill(tokens)
    for each in engines:
        contenders[each.name] = lambda engine=each.engine: prefill_last(engine, tokens)  # type: ignore[misc]
    seconds = in_turn(contenders, rounds=context.repeats)
    rows = []
    for engine in [None, *engines] if TORCH in seconds else engines:
        times = seconds[TORCH if engine is None else engine.name]
        measured = latency(times)
        operations = prefill_operations(spec, batch=batch, tokens=length, rows=1)
        rows.append(
            Row(
                what="prefill",
                model=subject.name,
                runner=TORCH if engine is None else engine.runner,
                precision="fp32" if engine is None else engine.precision,
                batch=batch,
                latency=measured,
                rates={
                    "tokens/s": batch * length / (measured.mean_ms * 1e-3),
                    "GFLOP/s": operations / (measured.mean_ms * 1e6),
                },
                speedup=speedup(seconds[TORCH], times) if engine is not None and TORCH in seconds else None,
                parity=None if engine is None else _parity(context, engine.engine, tokens, engine.precision),
                facts={"tokens": length, "operations": operations},
            )
        )
    return rows


def prefill_last(engine: Engine, tokens: Int64Array) -> object:
    """Fill a new cache and return the logits of the last token, float32 (B, 1, V)."""
    cache = engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
    return engine.prefill(cache, tokens, rows=np.array([tokens.shape[1] - 1], dtype=np.int64), block=tokens.shape[1])


def _parity(context: Context, engine: Engine, tokens: Int64Array, precision: str) -> Parity:
    """Compare all tokens' logits with torch's, or the last with those of a decode step where torch can't tell."""
    length = tokens.shape[1]
    cache = engine.new_cache(batch=len(tokens), capacity=length)
    if context.reference is not None and context.reference.own_weights:
        found = engine.prefill(cache, tokens, rows=np.arange(length, dtype=np.int64), block=length)
        return compare_logits(found, context.reference.prefill(tokens), precision=precision)
    spec: TransformerSpec = engine.spec
    found = engine.prefill(
        cache,
        tokens,
        rows=np.array([length - 1], dtype=np.int64),
        block=length,
        num_unmasked=min(spec.num_unmasked, length - 1),
    )
    shorter = engine.new_cache(batch=len(tokens), capacity=length)
    engine.prefill(shorter, tokens[:, :-1], rows=np.array([0], dtype=np.int64), block=length)
    wanted = engine.stepper(shorter).step(tokens[:, -1], np.full(len(tokens), length - 1, dtype=np.int64))
    difference = float(np.abs(found[:, 0].astype(np.float64) - wanted).max())
    return judge("logits against a step, max abs", difference, limit=LOGITS_FP32)
