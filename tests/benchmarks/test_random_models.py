"""Random weights: complete, the same each time, of the sizes that a real model's have."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.tiny_models import TINY, tiny_subject
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.export.key_shapes import expected_shapes
from trt_vqgan.manifest import read_manifest, verify_files
from trt_vqgan.runtime.pipeline import load


def test_every_weight_of_the_model_is_there() -> None:
    weights = RandomWeights(TINY)
    assert {key: weights[key].shape for key in weights} == expected_shapes(TINY)
    assert all(weights[key].dtype == np.float32 for key in weights)
    with pytest.raises(KeyError):
        weights["transformer.nothing"]


def test_a_weight_is_the_same_each_time_and_unlike_others() -> None:
    weights, key = RandomWeights(TINY), "transformer.blocks.0.attn.key.weight"
    assert np.array_equal(weights[key], RandomWeights(TINY)[key])
    assert not np.array_equal(weights[key], weights["transformer.blocks.1.attn.key.weight"])
    assert not np.array_equal(weights[key], RandomWeights(TINY, seed=1)[key])


def test_sizes_are_those_of_the_published_initialisation() -> None:
    weights = RandomWeights(TINY)
    assert weights["transformer.blocks.0.mlp.0.weight"].std() == pytest.approx(0.02, rel=0.05)
    kernel = weights["first_stage.decoder.mid.block_1.conv1.weight"]  # published: uniform up to (inputs)^-1/2
    assert kernel.std() == pytest.approx((3 * 64 * 9) ** -0.5, rel=0.05)
    assert (weights["transformer.ln_f.weight"] == 1).all()
    assert (weights["transformer.blocks.1.ln2.bias"] == 0).all()
    assert (weights["first_stage.encoder.norm_out.weight"] == 1).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_subject_is_a_bundle(precision: str) -> None:
    with tiny_subject() as subject:
        folder = subject.bundle(precision)
        verify_files(folder, read_manifest(folder))
        with load(folder, threads=1) as pipeline:
            assert pipeline.generate(n=2, seed=0).images.shape == (2, 16, 16, 3)
        written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        subject.bundle(precision)
        subject.transformer(precision)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written  # nothing is made twice
    assert not folder.exists()


def test_another_vocabulary_changes_nothing_else() -> None:
    with tiny_subject() as subject:
        wider = subject.wider(128)
        assert wider is not None
        assert wider.spec.transformer is not None
        assert TINY.transformer is not None
        assert wider.spec.transformer.vocab_size == wider.spec.autoencoder.codebook_size == 128
        assert wider.spec.transformer.hidden_size == TINY.transformer.hidden_size
        wider.close()
