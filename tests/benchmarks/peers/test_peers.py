"""Other runtimes beside ours on a tiny model: the same codes from the same weights, where they are installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.tiny_models import tiny_context
from trt_vqgan.benchmarks.peers.__main__ import main
from trt_vqgan.benchmarks.peers.contenders import (
    BASELINE,
    CONTENDERS,
    CTRANSLATE2,
    Contender,
    Runtime,
)
from trt_vqgan.benchmarks.peers.drawing import SteppingDrawer
from trt_vqgan.benchmarks.peers.job import Job, job_from_json
from trt_vqgan.benchmarks.peers.measuring import Found, measure
from trt_vqgan.benchmarks.peers.page import main as write_page
from trt_vqgan.benchmarks.peers.runtime_process import RuntimeFailedError
from trt_vqgan.benchmarks.peers.weights import fused_qkv
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.report import read_report
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.extras import PACKAGES_OF_EXTRAS

SPEC = model_of_shape(1, width=64)
ROOT = Path(__file__).parents[3]
FAILING = Runtime("failing", "tests.benchmarks.peers.failing_runtime")


def run(
    contenders: Sequence[Contender],
    *,
    bits: str = "fp32",
    batches: Sequence[int] = (1, 3),
    said: list[str] | None = None,
    prefill: int | None = None,
) -> Found:
    with tiny_context(seed=None, repeats=1) as context:
        say = [].append if said is None else said.append
        context = dataclasses.replace(context, say=say, batches=tuple(batches))
        return measure(
            SPEC, name="1x64", context=context, bits=(bits,), contenders=contenders, pause=0.01, prefill=prefill
        )


@pytest.fixture
def quick_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch's place, for tests of what happens around the runtimes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("trt_vqgan.benchmarks.peers.measuring.BASELINE", Contender(FAILING, "fp32", "never fails"))


class Counting:
    """A runtime whose likeliest token is the position plus the row plus the token before."""

    def start(self, prefix: np.ndarray) -> None:
        self.rows = len(prefix)

    def step(self, tokens: np.ndarray, position: int) -> np.ndarray:
        wanted = tokens + position + np.arange(self.rows)
        return np.eye(100, dtype=np.float32)[wanted]


def test_codes_are_fed_back_and_rows_begin_differently() -> None:
    codes = SteppingDrawer("counting", Counting()).draw(2, 4)
    assert codes.tolist() == [[0, 1, 3, 6], [2, 4, 7, 11]]


def test_queries_keys_and_values_are_stacked_in_this_order() -> None:
    weights = RandomWeights(SPEC)
    matrix, bias = fused_qkv(weights, 0)
    assert matrix.shape == (192, 64)
    for place, part in enumerate(("query", "key", "value")):
        name = f"transformer.blocks.0.attn.{part}"
        assert (matrix[64 * place : 64 * (place + 1)] == weights[f"{name}.weight"]).all()
        assert (bias[64 * place : 64 * (place + 1)] == weights[f"{name}.bias"]).all()


def test_a_job_survives_its_line() -> None:
    job = Job(module="m", spec=SPEC, precision="q8_0 x", folder=Path("a b"), threads=2, batch=3, never=4)
    assert job_from_json(job.to_json()) == job


@pytest.mark.parametrize(("bits", "batches"), [("fp32", (1, 3)), ("bf16", (3,)), ("int8", (3,)), ("int4", (3,))])
def test_rows_agree_with_torch(bits: str, batches: tuple[int, ...]) -> None:
    contenders = [contender for contender in CONTENDERS if contender.bits == bits and contender.runtime.installed]
    if not contenders:
        pytest.skip(f"nothing that computes in {bits} is installed: pip install 'trt-vqgan[peers]'")
    found = run(contenders, bits=bits, batches=batches)
    for name in list(found.left_out):
        if name.startswith("CTranslate2 bfloat16") and "bfloat16" in found.left_out[name]:
            del found.left_out[name]  # not on every processor
            contenders = [contender for contender in contenders if contender.runtime != CTRANSLATE2]
    assert not found.left_out
    own = (BASELINE,) if bits == "fp32" else ()
    wanted = [(contender.precision, batch) for batch in batches for contender in (*own, *contenders)]
    assert [(row.precision, row.batch) for row in found.rows] == wanted
    exact = {contender.precision for contender in contenders if bits == "fp32" and contender.runtime.exact}
    for row in found.rows:
        assert row.latency is not None
        assert row.facts["threads_busy"] > 0
        if row.runner == "torch":
            continue
        assert row.speedup is not None
        assert row.parity is not None
        if row.precision in exact and not row.runner.startswith("llama"):
            assert row.parity.value == 1
        else:
            assert row.parity.value > 0.03  # by chance 0.001


@pytest.mark.parametrize("bits", ["fp32", "int8"])
def test_prefills_agree_with_torch(bits: str) -> None:
    contenders = [each for each in CONTENDERS if each.bits == bits and each.runtime.installed and each.runtime.prefills]
    found = run(contenders, bits=bits, batches=(3,), prefill=40)
    assert not found.left_out
    own = (BASELINE,) if bits == "fp32" else ()
    assert [row.precision for row in found.rows] == [contender.precision for contender in (*own, *contenders)]
    assert len(contenders) >= 2
    for row in found.rows:
        assert row.what == "prefill of 40"
        assert row.latency is not None
        assert row.rates["tokens/s"] == pytest.approx(3 * 40 / row.latency.mean_ms * 1e3)
        if row.runner != "torch":
            assert row.parity is not None
            assert row.parity.value == 1 if bits == "fp32" else row.parity.value > 0.7


@pytest.mark.usefixtures("quick_baseline")
def test_runtimes_that_are_missing_or_fail_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.benchmarks.peers.sleeping.PATIENCE_SECONDS", 0.3)
    reasons = {
        "crashes in prepare": ("crashed with signal 11 (SIGSEGV)", 1, 3),
        "crashes when opened": ("crashed with signal 11 (SIGSEGV)", 3),
        "crashes in the second round": ("crashed with signal 11 (SIGSEGV)", 3),
        "raises": ("ended with status 1: RuntimeError: no …/model for this", 1, 3),
        "draws too little": ("drew codes of shape (3, 255), wanted (3, 256)", 3),
        "never sleeps": ("its threads don't sleep between turns", 3),
    }
    missing = Contender(Runtime("elsewhere", FAILING.module, ("no_such_module",)), "fp32", "fp32")
    said: list[str] = []
    found = run([missing, *(Contender(FAILING, "fp32", way) for way in reasons)], said=said)
    wanted = {"elsewhere fp32": "isn't installed"}
    for way, (reason, *batches) in reasons.items():
        if way == "crashes in prepare":
            wanted[f"failing {way}"] = reason
        else:
            wanted |= {f"failing {way}, batch {batch}": reason for batch in batches}
    assert found.left_out == wanted
    assert set(said) >= {f"left out: {name}: {reason}" for name, reason in wanted.items()}
    rows = {(row.precision, row.batch) for row in found.rows}
    assert rows == {("never fails", 1), ("never fails", 3)} | {
        (way, batch) for way, (_, *batches) in reasons.items() for batch in (1, 3) if batch not in batches
    }


@pytest.mark.usefixtures("quick_baseline")
def test_without_torch_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.benchmarks.peers.measuring.BASELINE", Contender(FAILING, "fp32", "raises"))
    with pytest.raises(RuntimeFailedError, match="no …/model for this"):
        run([])


@pytest.mark.usefixtures("quick_baseline")
def test_the_page_tells_what_ran_and_what_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.benchmarks.read_bandwidth.ARRAY_BYTES", 1 << 16)
    missing = Contender(Runtime("elsewhere", FAILING.module, ("no_such_module",)), "fp32", "fp32")
    measured = (Contender(FAILING, "fp32", "draws too little"), missing)
    monkeypatch.setattr(
        "trt_vqgan.benchmarks.peers.__main__.measure",
        lambda spec, **given: measure(spec, **given, contenders=measured, pause=0.01),
    )
    source, target = tmp_path / "peers.json", tmp_path / "peers.md"
    main(["--json", str(source), "--shape", "1x64", "--batch", "1", "--repeats", "1", "--precision", "fp32"])
    report = read_report(source)
    assert report.command.endswith("--json peers.json --shape 1x64 --batch 1 --repeats 1 --precision fp32")
    assert report.settings["left_out"] == {"elsewhere fp32": "isn't installed"}
    assert set(report.versions) >= {"torch", "onnxruntime-genai", "ctranslate2", "openvino", "llama-cpp-python"}
    assert write_page([str(source), str(target)]) == 0
    text = target.read_text()
    assert "- elsewhere fp32: isn't installed\n" in text
    assert report.command in text
    assert str(tmp_path) not in text + source.read_text()
    assert text.count("| picture step |") == 2


@pytest.mark.parametrize("module", sorted({contender.runtime.module for contender in CONTENDERS}))
def test_no_other_runtime_is_in_the_process_that_draws(module: str) -> None:
    script = f"import sys, {module}, trt_vqgan.benchmarks.peers.child; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" not in loaded
    assert "onnx" not in loaded


def test_what_the_others_need_is_in_the_extra() -> None:
    wanted = {name for contender in CONTENDERS for name in contender.runtime.imports}
    assert wanted - {"torch", "onnx"} == set(PACKAGES_OF_EXTRAS["peers"])


def test_find_spec_decides_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else object())
    assert {contender.runtime.name for contender in CONTENDERS if not contender.runtime.installed} == {"llama.cpp"}
