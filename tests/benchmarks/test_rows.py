"""The rows of each part, on a tiny model: complete, in agreement with torch, and able to disagree."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.tiny_models import TINY, tiny_context, tiny_subject
from trt_vqgan.benchmarks import sampler_rows as sampler_rows_module
from trt_vqgan.benchmarks.arithmetic import step_weight_bytes
from trt_vqgan.benchmarks.autoencoder_rows import decode_rows, encode_rows, open_autoencoder, sample_picture
from trt_vqgan.benchmarks.decode_steps import EngineSteps
from trt_vqgan.benchmarks.engines import measured_runners
from trt_vqgan.benchmarks.generate_rows import generate_rows
from trt_vqgan.benchmarks.prefill_rows import prefill_rows
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.rows import NATIVE, OURS, TORCH, Row
from trt_vqgan.benchmarks.sampler_rows import check_drawn, sampler_rows
from trt_vqgan.benchmarks.step_rows import step_rows
from trt_vqgan.benchmarks.subjects import RandomSubject
from trt_vqgan.export.transformer_graph import transformer_graph
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.runtime.native.build import built_library, find_compiler
from trt_vqgan.runtime.native.network_library import best_instructions, open_network_library
from trt_vqgan.runtime.sampler import Sampling, draw_codes

COMPARED = {"encode": encode_rows, "decode": decode_rows, "prefill": prefill_rows, "step": step_rows}
BATCHED = ("prefill", "step")
ENGINES = (NATIVE, OURS) if find_compiler() else (OURS,)


def ours(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.runner in (NATIVE, OURS)]


@pytest.mark.parametrize("part", COMPARED)
def test_rows_are_complete_and_agree_with_torch(part: str) -> None:
    with tiny_subject() as subject, tiny_context() as context:
        rows = COMPARED[part](subject, context)
    batches = (1, 3) if part in BATCHED else (1,)
    names = ("fp32", "int8") if part in BATCHED else ("fp32", "fp16 weights")
    wanted = {(TORCH, "fp32", b) for b in batches} | {(e, name, b) for e in ENGINES for name in names for b in batches}
    if part == "decode" and NATIVE in ENGINES and best_instructions(open_network_library(built_library()), bf16=True):
        wanted.add((NATIVE, "bf16", 1))
    assert {(row.runner, row.precision, row.batch) for row in rows} == wanted
    for row in rows:
        assert row.what == part
        assert row.latency is not None
        assert row.latency.n == (2 * 63 if part == "step" else 2)
        assert all(value > 0 for value in row.rates.values())
        if row.runner == TORCH:
            assert row.speedup is None
            assert row.parity is None
        else:
            assert row.speedup is not None
            assert row.speedup.n == 2
            assert row.speedup.low <= row.speedup.median <= row.speedup.high
            assert row.parity is not None
            assert row.parity.ok, row


@pytest.mark.parametrize("part", COMPARED)
def test_planted_fault_other_weights_break_parity(part: str) -> None:
    with tiny_subject() as subject, tiny_context(seed=1) as context:
        rows = COMPARED[part](subject, context)
    for row in ours(rows):
        assert row.parity is not None
        assert not row.parity.ok, row


@pytest.mark.parametrize("part", BATCHED)
def test_without_torchs_results_the_engine_is_compared_with_itself(part: str) -> None:
    with tiny_subject() as subject, tiny_context(seed=1, own_weights=False) as context:
        rows = COMPARED[part](subject, context)
    for row in ours(rows):
        assert row.speedup is not None  # times can be compared all the same
        assert row.parity is not None
        assert row.parity.measure.startswith("logits against")
        assert row.parity.ok


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_without_torchs_results_nothing_is_claimed(part: str) -> None:
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        rows = COMPARED[part](subject, context)
    assert [row.precision for row in rows if row.runner == OURS] == ["fp32", "fp16 weights"]
    assert all(row.parity is None and row.speedup is None for row in rows)


def test_planted_fault_a_cache_that_loses_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that write over the position before differ from one pass."""
    step = EngineSteps.step
    monkeypatch.setattr(EngineSteps, "step", lambda self, tokens, position: step(self, tokens, max(1, position - 1)))
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        rows = step_rows(subject, context)
    assert all(row.parity is not None and not row.parity.ok for row in rows)


def test_step_rows_say_what_is_read() -> None:
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        rows = step_rows(subject, context)
    assert TINY.transformer is not None
    for row in rows:
        assert row.latency is not None
        read = step_weight_bytes(TINY.transformer, row.precision, scale_bytes=2 if row.runner == NATIVE else 4)
        assert row.facts["weight_bytes"] == read
        halves = row.runner == NATIVE and row.precision != "fp32"
        caches = KVCache.bytes_needed(TINY.transformer, batch=row.batch, capacity=64)
        assert row.facts["cache_bytes"] == (caches // 2 if halves else caches)
        assert row.facts["steps"] == 63
        gb_per_s = read / row.latency.mean_ms / 1e6
        assert row.rates["GB/s of weights"] == pytest.approx(gb_per_s)
        assert row.rates["codes/s"] == pytest.approx(row.batch * 1e3 / row.latency.mean_ms)
        assert row.rates["GB/s this machine reads"] * 1e9 <= max(context.bandwidth.samples)
        assert row.rates["share of what it reads"] > 0
    assert len(context.bandwidth.samples) == 2 * 2 * (1 + 4 * len(rows) // 2)  # batches, rounds, stretches of runners


def test_a_mixture_reads_each_matrix_in_its_own_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eight in 8 bits, and the head; the others in 4."""
    assert TINY.transformer is not None
    wide = frozenset({"blocks.0.attn", "blocks.1.mlp.0"})
    graph = transformer_graph(TINY.transformer, RandomWeights(TINY), precision="int4", wider=wide)
    path = graph.save(tmp_path / "transformer.onnx")[0]
    monkeypatch.setattr(RandomSubject, "transformer", lambda self, precision: path)
    subject = RandomSubject(TINY, name="mixture", precisions=("int4",))
    with contextlib.closing(subject), tiny_context(seed=None) as context:
        rows = step_rows(subject, context)
    eight, four = (3 + 4) * 64**2 + 48 * 64, (2 * 12 - 3 - 4) * 64**2
    for row in rows:
        scale = 2 if row.runner == NATIVE else 4
        assert row.facts["weight_bytes"] == eight + eight // 64 * scale + four // 2 + four // 32 * scale


def test_encoded_codes_differ_from_place_to_place() -> None:
    """Else equal codes would say nothing."""
    with tiny_subject() as subject:
        model: Autoencoder = open_autoencoder(TINY.autoencoder, subject.autoencoder("fp32"), threads=1)
        codes = model.encode(sample_picture(TINY.autoencoder))
    assert len(set(codes.flatten().tolist())) > 3


def test_sampler_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_rows_module, "VOCAB_SIZE", 96)
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        rows = sampler_rows(subject, context)
        runners = measured_runners(context)
    ways = ["top-k 96", "top-k 96, top-p 0.92", "all codes", "greedy"]
    assert [(row.runner, row.facts["sampling"]) for row in rows] == [
        (runner, way) for runner in runners for way in ways
    ]
    for row in rows:
        assert (row.model, row.precision, row.batch) == ("tiny V=96", "fp32", 3)
        assert row.latency is not None
        assert row.latency.n == 63
        share = row.latency.mean_ms / row.facts["step_mean_ms"]
        assert row.rates["share of a step"] == pytest.approx(share)
        assert row.parity is not None
        assert row.parity.ok


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5, top_p=0.9), Sampling(greedy=True)])
def test_planted_fault_another_code_is_noticed(sampling: Sampling) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 30)).astype(np.float32)
    random = np.array([1 << 60, 5 << 61], dtype=np.uint64)
    codes = draw_codes(logits, sampling, random=random)
    assert check_drawn(logits, codes, sampling, random).ok
    codes[1] = (codes[1] + 1) % 30
    assert not check_drawn(logits, codes, sampling, random).ok


def test_generate_rows() -> None:
    with tiny_subject() as subject, tiny_context(seed=None) as context:
        rows = generate_rows(subject, context)
        size_bytes = sum(p.stat().st_size for p in subject.bundle("fp32").iterdir() if p.name != "manifest.json")
    kinds = [(row.what, row.precision, row.batch) for row in rows]
    one = [("generate", 1), ("generate", 3), ("start-up", 1), ("memory", 1), ("memory", 3)]
    assert kinds == [(what, precision, batch) for precision in ("fp32", "int8") for what, batch in one]
    for row in rows:
        if row.what == "generate":
            assert row.latency is not None
            assert row.rates["codes/s"] == pytest.approx(64 * row.rates["pictures/s"])
            assert 0 < row.rates["share spent decoding pictures"] < 1
            assert row.parity is not None
            assert row.parity.ok
        if row.what == "start-up":
            assert 0 < row.facts["load_s"] < row.facts["first_picture_s"]
        if row.what == "memory":
            parts = row.facts["bundle_bytes"] + row.facts["cache_bytes"] + row.facts["activation_bytes"]
            assert row.facts["allowed_bytes"] == parts + 300 * 10**6
    assert rows[3].facts["bundle_bytes"] == size_bytes


def test_planted_fault_pictures_that_depend_on_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = CodeGenerator.generate
    monkeypatch.setattr(
        CodeGenerator,
        "generate",
        lambda self, conditions, **rest: (generate(self, conditions, **rest) + len(conditions)) % 48,
    )
    with tiny_subject() as subject, tiny_context(seed=None, repeats=1) as context:
        subject.precisions = ("fp32",)
        rows = [row for row in generate_rows(subject, context) if row.what == "generate"]
    assert [row.parity is not None and row.parity.ok for row in rows] == [True, False]
