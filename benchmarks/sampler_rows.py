"""The sampler's share of a decode step, both measured on the same logits in the same run."""

from __future__ import annotations

import time

import numpy as np

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.decode_steps import WARM_UP_STEPS, EngineSteps
from trt_vqgan.benchmarks.engines import measured_runners
from trt_vqgan.benchmarks.parity import FloatArray, Int64Array, Parity, compare_codes
from trt_vqgan.benchmarks.rows import NATIVE, Row
from trt_vqgan.benchmarks.sequences import random_sequence
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.benchmarks.timings import latency
from trt_vqgan.kernels.reference.sample_codes import draw, kept_weights
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.philox import random64
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.transformer import TransformerEngine

VOCAB_SIZE = 16384
"""The largest of the published vocabularies; a model of random weights gets it for these rows."""

COMPARED_ROWS = 2
"""Rows of each call that are also drawn by the definition, which goes through the codes one by one in Python."""


def sampler_rows(subject: Subject, context: Context) -> list[Row]:
    """Return a row for each engine and way of sampling, at the largest batch, with its share of an fp32 step's time.

    Each engine draws as it does in generating: our kernels in C++, ONNX Runtime with NumPy. Where the model has no fp32
    graph, the share is of a step of the precision that it has.
    """
    model = subject.wider(VOCAB_SIZE) or subject
    try:
        return [row for runner in measured_runners(context) for row in _rows(model, context, runner)]
    finally:
        if model is not subject:
            model.close()


def _rows(subject: Subject, context: Context, runner: str) -> list[Row]:
    spec = subject.spec.transformer
    assert spec is not None
    assert subject.spec.condition is not None
    precision = "fp32" if "fp32" in subject.precisions else subject.precisions[0]
    batch = max(context.batches)
    context.say(f"{subject.name} sampler: loading {runner} {precision}")
    kind = NativeEngine if runner == NATIVE else TransformerEngine
    engine = kind(subject.transformer(precision), spec, threads=context.threads)
    tokens = random_sequence(subject.spec, batch)
    prefix = subject.spec.condition.num_tokens
    steps = EngineSteps(engine, capacity=tokens.shape[1])
    ways = {
        f"top-k {min(250, spec.vocab_size)}": Sampling(top_k=min(250, spec.vocab_size)),
        f"top-k {min(600, spec.vocab_size)}, top-p 0.92": Sampling(top_k=min(600, spec.vocab_size), top_p=0.92),
        "all codes": Sampling(),
        "greedy": Sampling(greedy=True),
    }
    count = tokens.shape[1] - prefix
    size = subject.spec.autoencoder.codebook_size
    random = random64(0, pictures=np.repeat(np.arange(batch), count), positions=np.tile(np.arange(count), batch))
    random = random.reshape(batch, count)
    context.say(f"{subject.name} sampler {runner} batch {batch}")
    steps.start(tokens[:, :prefix])
    for i in range(min(WARM_UP_STEPS, count)):
        logits = steps.step(tokens[:, prefix + i], prefix + i)[:, :size]
        for sampling in ways.values():
            engine.draw_codes(logits, sampling, random=random[:, i])
    steps.start(tokens[:, :prefix])
    step_seconds: list[float] = []
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(count):
        start = time.perf_counter()
        logits = steps.step(tokens[:, prefix + i], prefix + i)[:, :size]
        step_seconds.append(time.perf_counter() - start)
        for way, sampling in ways.items():
            start = time.perf_counter()
            engine.draw_codes(logits, sampling, random=random[:, i])
            seconds[way].append(time.perf_counter() - start)
    last = count - 1
    return [
        Row(
            what="sampler",
            model=subject.name,
            runner=runner,
            precision=precision,
            batch=batch,
            latency=latency(seconds[way]),
            rates={"share of a step": sum(seconds[way]) / sum(step_seconds)},
            parity=check_drawn(
                logits[:COMPARED_ROWS],
                engine.draw_codes(logits, sampling, random=random[:, last])[:COMPARED_ROWS],
                sampling,
                random[:COMPARED_ROWS, last],
            ),
            facts={"sampling": way, "vocab_size": size, "step_mean_ms": latency(step_seconds).mean_ms},
        )
        for way, sampling in ways.items()
    ]


def check_drawn(
    logits: FloatArray, codes: Int64Array, sampling: Sampling, random: np.ndarray[tuple[int], np.dtype[np.uint64]]
) -> Parity:
    """Return the share of ``codes`` int64 (B,) that are those of the definition; all of them must be."""
    wanted = []
    for row, number in zip(logits, random.tolist(), strict=True):
        if sampling.greedy:
            wanted.append(int(row.argmax()))
            continue
        weights = kept_weights(row, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        wanted.append(draw(weights, number))
    return compare_codes(codes, np.array(wanted, dtype=np.int64), limit=1.0)
