"""Classifier-free guidance against its formula over plain logits, and its independence of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import BundleError, ConditionError, ShapeError
from trt_vqgan.runtime.pipeline import Pipeline

NULL = 4


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("class")
    run = make_checkpoint(folder / "run", kind="class")
    bundle = trt_vqgan.export_checkpoint(run, folder / "bundle", null_class=NULL)
    with trt_vqgan.load(bundle, threads=1) as opened:
        yield opened


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_greedy_codes_follow_the_formula(pipe: Pipeline, scale: float) -> None:
    codes = pipe.generate(class_id=1, guidance=scale, greedy=True).codes
    given, without = pipe.logits([[1]], codes), pipe.logits([[NULL]], codes)
    size = pipe.spec.autoencoder.codebook_size
    guided = (without + np.float32(scale) * (given - without))[0, :, :size]
    np.testing.assert_array_equal(guided.argmax(axis=1), codes.reshape(-1))
    assert (given[0, :, :size].argmax(axis=1) != codes.reshape(-1)).any(), "guidance changes nothing here"


def test_scales_that_are_a_single_prediction(pipe: Pipeline) -> None:
    plain = pipe.generate(class_id=1, seed=5).codes
    np.testing.assert_array_equal(pipe.generate(class_id=1, seed=5, guidance=1).codes, plain)
    null = pipe.generate(class_id=NULL, seed=5).codes
    np.testing.assert_array_equal(pipe.generate(class_id=1, seed=5, guidance=0).codes, null)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_no_bit(pipe: Pipeline, batch_size: int) -> None:
    options = {"class_id": [0, 1, 2, 3, 0], "seed": 8, "guidance": 2.5}
    wanted = pipe.generate(**options, batch_size=8)
    found = pipe.generate(**options, batch_size=batch_size)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    assert (wanted.codes[0] != wanted.codes[4]).any()


def test_kept_codes_and_guidance_together(pipe: Pipeline) -> None:
    whole = pipe.generate(class_id=2, seed=8, guidance=2.5).codes
    kept = whole.copy()
    kept[:, 3:] = -1
    kept[:, 5] = whole[:, 5]
    np.testing.assert_array_equal(pipe.generate(class_id=2, seed=8, guidance=2.5, kept_codes=kept).codes, whole)


def test_the_null_class_is_no_class_by_default(pipe: Pipeline) -> None:
    assert pipe.generate(n=6).classes.tolist() == [0, 1, 2, 3, 0, 1]
    assert pipe.generate(class_id=NULL).classes.tolist() == [NULL]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_wrong_scales(pipe: Pipeline, scale: float) -> None:
    with pytest.raises(ShapeError, match="guidance: found"):
        pipe.generate(class_id=0, guidance=scale)


@pytest.mark.parametrize(
    ("kind", "message"), [("class", "export it again with --null-class ID"), ("unconditional", "leave guidance out")]
)
def test_models_without_a_null_class(tmp_path: Path, kind: str, message: str) -> None:
    run = make_checkpoint(tmp_path / "run", kind=kind)
    with (
        trt_vqgan.load(trt_vqgan.export_checkpoint(run, tmp_path / "bundle")) as pipe,
        pytest.raises(ConditionError, match=message),
    ):
        pipe.generate(guidance=2.0)


def test_a_null_class_that_is_no_class(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="class")
    with pytest.raises(BundleError, match="null_class is 5, the model has 5 classes"):
        trt_vqgan.export_checkpoint(run, tmp_path / "bundle", null_class=5)
    assert not (tmp_path / "bundle").exists()
