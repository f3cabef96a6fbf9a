"""The pipeline against what the published code computed from the golden checkpoints, and from the trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_vqgan
from tests.conftest import ROOT
from tests.tolerances import GOLDEN_PROBABILITY_ABSOLUTE, LOGITS_FP32, NLL_FP32, NLL_INT4, NLL_INT8, PICTURE_GREY_LEVELS
from trt_vqgan.export.parity import verify_bundle
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.editing import region_mask
from trt_vqgan.runtime.native.build import find_compiler, find_library
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.scheduler.picture import PictureRequest, outside_the_batch
from trt_vqgan.runtime.scheduler.scheduler import Scheduler

CONDITION_ARGUMENTS = {
    "unconditional": None,
    "class": "class_id",
    "depth": "depth",
    "segmentation": "segmentation",
    "coord": "coordinates",
    "scene": "condition_codes",
}
PROBABILITIES = [
    ("probs_T1.0_k10_p1.0", {"temperature": 1.0, "top_k": 10, "top_p": 1.0}),
    ("probs_T0.7_k20_p0.9", {"temperature": 0.7, "top_k": 20, "top_p": 0.9}),
    ("probs_T1.3_k40_p0.5", {"temperature": 1.3, "top_k": 40, "top_p": 0.5}),
]


@dataclasses.dataclass(frozen=True)
class Golden:
    """A golden checkpoint exported and opened, with the published code's arrays."""

    name: str
    run: Path
    bundle: Path
    pipe: Pipeline
    expected: dict[str, np.ndarray]

    @property
    def condition(self) -> np.ndarray:
        """Condition tokens as the bundle makes them from the golden's input."""
        argument = CONDITION_ARGUMENTS[self.name]
        if argument == "condition_codes":
            return self.expected["c_indices"]
        options: dict[str, Any] = {argument: self.expected["cond_input"]} if argument else {}
        return self.pipe.encode_condition(**options)


def golden_folder(name: str) -> Path:
    shared = ROOT.parent / "shared" / "golden" / name
    if shared.is_dir():
        return shared
    kept = ROOT / "tests" / "data" / "golden" / name
    if not kept.is_dir():
        pytest.skip(f"the golden checkpoint {name} isn't on this machine")
    return kept


def open_golden(name: str, folder: Path, *, backend: str = "onnxruntime") -> Golden:
    run = golden_folder(name)
    bundle = trt_vqgan.export_checkpoint(run, folder / name)
    expected = dict(np.load(run / "expected.npz"))
    return Golden(name, run, bundle, trt_vqgan.load(bundle, backend=backend, device="cpu", threads=2), expected)


@pytest.fixture(scope="module", params=["onnxruntime", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and find_compiler() is None and find_library() is None:
        pytest.skip("no C++ compiler on this machine")
    return str(request.param)


@pytest.fixture(scope="module", params=list(CONDITION_ARGUMENTS))
def golden(request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    opened = open_golden(request.param, tmp_path_factory.mktemp("golden"), backend=backend)
    with opened.pipe:
        yield opened


def grey_levels(found: np.ndarray, wanted: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - wanted).max())


def test_condition_codes(golden: Golden) -> None:
    np.testing.assert_array_equal(golden.condition.reshape(1, -1), golden.expected["c_indices"])


def test_picture_codes_and_reconstruction(golden: Golden) -> None:
    codes = golden.pipe.encode(golden.expected["image"][None])
    np.testing.assert_array_equal(codes.reshape(1, -1), golden.expected["z_indices"])
    assert grey_levels(golden.pipe.decode(codes), golden.expected["reconstruction"]) <= PICTURE_GREY_LEVELS


def test_logits(golden: Golden) -> None:
    found = golden.pipe.logits(golden.condition, golden.expected["z_indices"])
    np.testing.assert_allclose(found, golden.expected["logits"], atol=LOGITS_FP32, rtol=0)


def test_greedy_codes(golden: Golden) -> None:
    result = golden.pipe.generate(condition_codes=golden.condition, greedy=True)
    np.testing.assert_array_equal(result.codes.reshape(1, -1), golden.expected["greedy_indices"])
    if "greedy_image" in golden.expected:
        assert grey_levels(result.images, golden.expected["greedy_image"]) <= PICTURE_GREY_LEVELS


def test_greedy_codes_in_a_batch(golden: Golden) -> None:
    """Beside rows that differ: other conditions of the same kind."""
    vocab = golden.pipe.spec.transformer.vocab_size
    cond = golden.condition.reshape(1, -1)
    others = np.random.default_rng(0).integers(0, min(vocab, 10), (2, cond.shape[1]))
    batch = np.concatenate([others[:1], cond, others[1:]])
    result = golden.pipe.generate(condition_codes=batch, greedy=True, batch_size=3)
    np.testing.assert_array_equal(result.codes[1].reshape(-1), golden.expected["greedy_indices"][0])


def test_completion_of_a_kept_half(golden: Golden) -> None:
    generator = golden.pipe._checked_generator()
    cond = golden.condition.reshape(1, -1)
    kept = np.full((2, 256), FREE)
    kept[:, :128] = golden.expected["z_indices"][:, :128]
    found = generator.generate(
        np.repeat(cond, 2, axis=0), sampling=Sampling(greedy=True), seed=0, pictures=np.arange(2), kept=kept
    )
    for row in found.reshape(2, -1):
        np.testing.assert_array_equal(row, golden.expected["completion_indices"][0])


def test_keeping_the_top_is_the_published_completion(golden: Golden) -> None:
    picture = golden.expected["image"]
    mask = region_mask("top", *picture.shape[:2])
    result = golden.pipe.generate(condition_codes=golden.condition, init=picture, keep=mask, greedy=True)
    np.testing.assert_array_equal(result.codes.reshape(1, -1), golden.expected["completion_indices"])


def test_greedy_codes_in_a_running_batch(golden: Golden) -> None:
    """The picture and its completion, among others that join before and after them."""
    generator = golden.pipe._checked_generator()
    condition = golden.condition.reshape(-1)
    kept = np.full(256, FREE)
    kept[:128] = golden.expected["z_indices"][0, :128]
    others = np.random.default_rng(0).integers(0, min(golden.pipe.spec.transformer.vocab_size, 10), (2, len(condition)))

    def picture(tokens: np.ndarray, kept: np.ndarray | None = None) -> PictureRequest:
        return PictureRequest(condition=tokens, sampling=Sampling(greedy=True), seed=0, picture=0, kept=kept)

    wanted = [picture(others[0]), picture(condition), picture(condition, kept), picture(others[1])]
    if reason := outside_the_batch(golden.pipe.spec, wanted[1]):
        pytest.skip(reason)
    scheduler = Scheduler(generator, rows=3, queue_limit=4)
    try:
        tickets = scheduler.submit(wanted)
        codes = [ticket.codes(timeout=60).reshape(-1) for ticket in tickets]
    finally:
        scheduler.close(drain=False)
    np.testing.assert_array_equal(codes[1], golden.expected["greedy_indices"][0])
    np.testing.assert_array_equal(codes[2], golden.expected["completion_indices"][0])


@pytest.mark.parametrize(("name", "settings"), PROBABILITIES)
def test_sampling_probabilities(golden: Golden, name: str, settings: dict[str, Any]) -> None:
    found = trt_vqgan.sampling_probabilities(golden.expected["logits"][:, 0], **settings)
    np.testing.assert_allclose(found, golden.expected[name], atol=GOLDEN_PROBABILITY_ABSOLUTE, rtol=0)


def test_verify_finds_every_output_within_tolerance(golden: Golden) -> None:
    rows = verify_bundle(golden.bundle, golden.run)
    assert all(row.ok for row in rows)
    assert {row.output.split()[0] for row in rows} >= {"encoder", "decoder", "transformer"}


@pytest.mark.parametrize("picture", [0, 1])
def test_gumbel_codes(tmp_path: Path, picture: int) -> None:
    golden = open_golden("gumbel_f8", tmp_path)
    with golden.pipe as pipe:
        codes = pipe.encode(golden.expected[f"image{picture}"])
        np.testing.assert_array_equal(codes, golden.expected[f"indices{picture}"])
        assert grey_levels(pipe.decode(codes), golden.expected[f"reconstruction{picture}"]) <= PICTURE_GREY_LEVELS


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_trained_model(shared_dir: Path, tmp_path: Path, backend: str, precision: str) -> None:
    run = shared_dir / "checkpoints" / "landscape_class"
    expected = np.load(run / "expected.npz")
    bundle = trt_vqgan.export_checkpoint(run, tmp_path / "bundle", precision=precision)
    with trt_vqgan.load(bundle, backend=backend, device="cpu", threads=2) as pipe:
        codes = pipe.encode(expected["images"])
        nll = pipe.score(codes, expected["classes"][:, None]).mean(axis=1)
        np.testing.assert_array_equal(codes, expected["codes"])
        tolerance = {"fp32": NLL_FP32, "int8": NLL_INT8, "int4": NLL_INT4}[precision]
        np.testing.assert_allclose(nll, expected["nll_nats"], atol=tolerance, rtol=0)
        if precision == "fp32":
            assert grey_levels(pipe.decode(codes), expected["reconstructions"]) <= PICTURE_GREY_LEVELS
            greedy = pipe.generate(n=5, greedy=True)
            np.testing.assert_array_equal(greedy.codes, expected["greedy_codes"])
            np.testing.assert_array_equal(greedy.classes, np.arange(5))
