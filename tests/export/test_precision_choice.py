"""`export --precision auto`: what it measures is what runs, and it chooses by that."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.runtime.small_models import random_gpt, random_tokens
from tests.tolerances import LOGITS_QUANTIZED_REFERENCE
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.cli import main
from trt_vqgan.errors import ExportError
from trt_vqgan.export import precision_choice
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.export.matrix_sensitivity import divergence_of_four_bits
from trt_vqgan.export.model_sequences import Sequences, draw_sequences
from trt_vqgan.export.one_thread_workers import OneThreadWorkers
from trt_vqgan.export.precision_choice import PrecisionChoice, choose_for, divergence, logits_of, sequences_of
from trt_vqgan.export.quantized_gpt import QuantizedGPT, matrix_names, rounded_rows
from trt_vqgan.export.transformer_graph import transformer_graph
from trt_vqgan.export.weight_quantization import INT4, INT8
from trt_vqgan.manifest import SamplingDefaults, read_manifest
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=61, max_seq_len=48, num_layers=2, num_heads=3, hidden_size=60)
MIXED = frozenset({"blocks.0.attn", "blocks.0.mlp.2", "blocks.1.attn", "blocks.1.attn.proj"})


@pytest.mark.parametrize("wider", [frozenset(), MIXED, frozenset(matrix_names(2))], ids=["int4", "mixed", "int8"])
def test_what_is_measured_is_what_runs(tmp_path: Path, wider: frozenset[str]) -> None:
    gpt = random_gpt(SPEC)
    weights = {f"transformer.{key}": value.detach().numpy().copy() for key, value in gpt.state_dict().items()}
    transformer_graph(SPEC, weights, precision="int4", wider=wider).save(tmp_path / "transformer.onnx")
    engine = TransformerEngine(tmp_path / "transformer.onnx", SPEC, threads=1)
    tokens = random_tokens(SPEC, 2, 40)
    found = engine.prefill(engine.new_cache(batch=2, capacity=40), tokens, rows=np.arange(40))
    with OneThreadWorkers() as workers:
        model = QuantizedGPT(gpt, workers)
    for name in matrix_names(2):
        model.set_form(name, INT8 if name in wider else INT4)

    def distance() -> float:
        with torch.inference_mode():
            logits = model.gpt(torch.from_numpy(tokens)).numpy()
        return float(np.abs(found - logits).max() / np.abs(logits).max())

    assert distance() < LOGITS_QUANTIZED_REFERENCE
    model.set_form("blocks.0.attn", INT4 if "blocks.0.attn" in wider else INT8)  # a planted fault: one of another form
    assert distance() > 2 * LOGITS_QUANTIZED_REFERENCE


def test_rows_are_rounded_in_blocks() -> None:
    x = torch.tensor([[1.0, 0.5, -127.0, 100.3, 0.001, 0.002]])
    np.testing.assert_allclose(rounded_rows(x, 4), [[1, 0, -127, 100, 0.001008, 0.002]], rtol=2e-3, atol=1e-6)


def test_divergence() -> None:
    wanted = torch.tensor([[[math.log(0.5), math.log(0.5)]]])
    found = torch.tensor([[[math.log(0.25), math.log(0.75)]]])
    codes = torch.zeros(1, 1, dtype=torch.int64)
    kl, rise = divergence(wanted, found, codes)
    assert kl == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert rise == pytest.approx((math.log(4) - math.log(2)) / math.log(2))
    assert divergence(wanted, wanted, codes) == (0, 0)


def chosen(monkeypatch: pytest.MonkeyPatch, *, kl: float, nll: float = 1.0) -> PrecisionChoice:
    monkeypatch.setattr(precision_choice, "KL_LIMIT_NATS", kl)
    monkeypatch.setattr(precision_choice, "NLL_LIMIT", nll)
    monkeypatch.setattr(precision_choice, "MARGIN", 1.0)
    gpt, sequences = random_gpt(SPEC), some_sequences()
    with OneThreadWorkers() as workers:
        return choose_for(sequences, logits_of(gpt, sequences, workers), QuantizedGPT(gpt, workers), workers)


def some_sequences() -> Sequences:
    tokens = torch.from_numpy(random_tokens(SPEC, 3, 40))
    return Sequences(tokens[:, :-1], tokens[:, 4:], 3)


def test_the_fastest_within_the_limits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = chosen(monkeypatch, kl=0.0).measured.candidates
    assert list(measured) == ["int4", "int8"]
    four, eight = measured["int4"].kl_nats, measured["int8"].kl_nats
    assert 0 < eight < four / 10
    assert (measured["int4"].bits, measured["int8"].bits) == (4.5, 8.25)
    assert chosen(monkeypatch, kl=0.0).precision == "fp32"
    assert chosen(monkeypatch, kl=1.01 * eight).precision == "int8"
    assert chosen(monkeypatch, kl=1.01 * four).precision == "int4"
    assert chosen(monkeypatch, kl=1.01 * four).wider == frozenset()
    assert chosen(monkeypatch, kl=1.01 * four, nll=-1.0).precision == "fp32", "likelihood has a limit of its own"


def test_a_mixture_keeps_the_sensitive_matrices_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    four = chosen(monkeypatch, kl=1.0).measured.candidates["int4"].kl_nats
    choice = chosen(monkeypatch, kl=four / 2)
    mixture = choice.measured.candidates["int4 and int8"]
    assert choice.precision == "int4"
    assert choice.wider == set(mixture.wider)
    assert 0 < len(choice.wider) < 8
    assert mixture.kl_nats <= four / 2
    assert 4.5 < mixture.bits <= precision_choice.WORTHWHILE_BITS
    assert f"with {len(choice.wider)} matrices in 8 bits" in choice.told
    # one matrix fewer is not enough
    assert len(chosen(monkeypatch, kl=0.999 * mixture.kl_nats).wider) > len(choice.wider)


def test_only_a_share_of_the_limits_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    four = chosen(monkeypatch, kl=1.0).measured.candidates["int4"].kl_nats
    assert chosen(monkeypatch, kl=1.01 * four).wider == frozenset()

    def with_margin(margin: float) -> PrecisionChoice:
        gpt, sequences = random_gpt(SPEC), some_sequences()
        monkeypatch.setattr(precision_choice, "MARGIN", margin)
        with OneThreadWorkers() as workers:
            return choose_for(sequences, logits_of(gpt, sequences, workers), QuantizedGPT(gpt, workers), workers)

    choice = with_margin(0.8)
    assert choice.wider
    assert choice.measured.candidates["int4 and int8"].kl_nats <= 0.8 * 1.01 * four
    assert "at most 80 % of the limits" in choice.told


def test_gradients_tell_what_four_bits_cost() -> None:
    """Against each matrix set to 4 bits by itself."""
    gpt, sequences = random_gpt(SPEC), some_sequences()
    with OneThreadWorkers() as workers:
        wanted = logits_of(gpt, sequences, workers)
        model = QuantizedGPT(gpt, workers)
        predicted = divergence_of_four_bits(sequences, model, workers)
        measured = {}
        for name in matrix_names(2):
            model.set_form(name, INT4)
            measured[name] = divergence(wanted, logits_of(gpt, sequences, workers), sequences.codes)[0]
            model.set_form(name, INT8)
    assert list(predicted) == list(measured)
    for name, found in measured.items():
        assert found / 2 < predicted[name] < 2 * found, name
    assert sum(predicted.values()) == pytest.approx(sum(measured.values()), rel=0.3)
    assert not any(layer._forward_hooks for layer in gpt.modules()), "nothing stays behind"


def test_large_models_are_measured_on_fewer_sequences() -> None:
    def count(layers: int, width: int) -> int:
        return sequences_of(model_of_shape(layers, width=width))

    assert [count(6, 256), count(12, 768), count(24, 1024), count(48, 1536)] == [8, 8, 4, 4]


def test_workers_leave_torch_its_threads() -> None:
    before = torch.get_num_threads()
    with OneThreadWorkers() as workers:
        assert workers.map(lambda job: (job, torch.get_num_threads()), range(4)) == [(i, 1) for i in range(4)]
    assert torch.get_num_threads() == before
    assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == before


@pytest.mark.parametrize("kind", ["unconditional", "class", "depth", "segmentation", "coord"])
def test_a_model_draws_its_own_sequences(tmp_path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "run", kind=kind))
    spec = checkpoint.spec
    assert spec.transformer is not None
    assert spec.condition is not None
    gpt = load_gpt(spec.transformer, checkpoint.weights)
    sampling = SamplingDefaults(top_k=3, top_p=0.9)
    with OneThreadWorkers() as workers:
        drawn, again = (
            draw_sequences(gpt, spec, checkpoint.weights, count=3, sampling=sampling, workers=workers) for _ in range(2)
        )
    assert drawn.codes.shape == (3, spec.num_codes)
    assert drawn.tokens.shape == (3, spec.condition.num_tokens + spec.num_codes - 1)
    assert drawn.first == spec.condition.num_tokens - 1
    assert torch.equal(drawn.codes, again.codes)
    assert not torch.equal(drawn.codes[0], drawn.codes[1])
    assert torch.equal(drawn.tokens[:, drawn.first + 1 :], drawn.codes[:, :-1])
    with torch.inference_mode():
        logits = gpt(drawn.tokens)[:, drawn.first :, : spec.autoencoder.codebook_size]
    ranks = (logits > logits.gather(-1, drawn.codes[..., None])).sum(dim=-1)
    assert ranks.max() < 3, "each of the three likeliest after what stands before it"


def test_the_bundle_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_choice, "MEASURED_CODES", 64)
    run = make_checkpoint(tmp_path / "run", kind="class")
    stages: list[str] = []
    told: list[str] = []
    bundle = export_checkpoint(
        run, tmp_path / "auto", precision="auto", on_progress=stages.append, on_decision=told.append
    )
    manifest = read_manifest(bundle)
    measured = manifest.precision_measured
    assert measured is not None
    assert measured.codes == 256
    assert manifest.precision["transformer"] in ("int4", "int8")
    assert any("precision: drawing" in stage for stage in stages)
    assert told[-1].startswith(f"precision {manifest.precision['transformer']}")
    named = export_checkpoint(run, tmp_path / "named", precision=manifest.precision["transformer"])
    assert read_manifest(named).precision_measured is None
    assert '"precision_measured"' not in (named / "manifest.json").read_text(), "so that older versions read it"
    output = CliRunner().invoke(main, ["info", str(bundle)]).output
    assert "measured int4" in output
    assert "nats of mean divergence" in output
    with trt_vqgan.load(bundle, backend="onnxruntime", threads=1) as pipe:
        assert pipe.generate(n=1, class_id=0, seed=0).codes.shape == (1, 8, 8)


def test_a_mixture_is_written_as_it_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_checkpoint(tmp_path / "run", kind="class")
    real = precision_choice.choose_precision

    def mixed(*arguments: object, **options: object) -> PrecisionChoice:
        return dataclasses.replace(real(*arguments, **options), precision="int4", wider=frozenset({"blocks.0.attn"}))

    monkeypatch.setattr(precision_choice, "MEASURED_CODES", 64)
    monkeypatch.setattr("trt_vqgan.export.exporter.choose_precision", mixed)
    sizes = [
        (export_checkpoint(run, tmp_path / name, precision=name) / "transformer.onnx.data").stat().st_size
        for name in ("int4", "auto", "int8")
    ]
    assert sizes == sorted(set(sizes))


def test_what_can_not_be_measured_is_refused(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="boxes")
    with pytest.raises(ExportError, match=r"precision auto.*layouts.*wanted one of fp32, int8, int4"):
        export_checkpoint(run, tmp_path / "bundle", precision="auto")
    assert not (tmp_path / "bundle").exists()


def test_a_vqgan_alone_stays_in_fp32(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="vq")
    manifest = read_manifest(export_checkpoint(run, tmp_path / "bundle", precision="auto"))
    assert manifest.precision_measured is None
    assert set(manifest.precision.values()) == {"fp32"}
