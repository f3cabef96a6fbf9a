"""What users give as a condition, against independent computations and the published rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import ConditionError, ShapeError
from trt_vqgan.runtime import conditions
from trt_vqgan.runtime.fitting import fit_labels
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.spec import ConditionSpec

COORDINATES = ConditionSpec(kind="coordinates", num_tokens=16, coordinate_levels=100, coordinate_factor=8)


def test_depth_of_any_scale_is_scaled_per_picture() -> None:
    depth = np.random.default_rng(0).uniform(3, 900, (2, 8, 8))
    depth[1] += 5000
    found = conditions.depth_map(depth)
    assert found.shape == (2, 1, 8, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.min(axis=(1, 2, 3)), -1, atol=1e-6)
    np.testing.assert_allclose(found.max(axis=(1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_array_equal(conditions.depth_map(depth[0])[0], found[0])


def test_a_constant_depth_map_is_no_division_by_zero() -> None:
    np.testing.assert_array_equal(conditions.depth_map(np.full((4, 4), 7)), np.full((1, 1, 4, 4), -1, np.float32))


def test_scaled_depth_is_taken_as_it_is() -> None:
    depth = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(conditions.depth_map(depth), depth)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.full((1, 1, 4, 4), 2.0), "wanted -1 to 1"),
        (np.zeros((1, 2, 4, 4)), r"wanted \(B, 1, H, W\)"),
        (np.zeros(4), "wanted \\(H, W\\)"),
        (np.array([[np.nan, 0]]), "NaN"),
        (np.array([["a"]]), "wanted numbers"),
    ],
)
def test_wrong_depth(depth: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        conditions.depth_map(depth)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int8, np.uint16])
@pytest.mark.parametrize("labels", [3, 127, 182])
def test_labels_become_one_hot(dtype: type, labels: int) -> None:
    top = min(labels, np.iinfo(dtype).max + 1)
    ids = np.random.default_rng(0).integers(0, top, (2, 5, 7)).astype(dtype)
    found = conditions.segmentation_map(ids, labels)
    wanted = F.one_hot(torch.from_numpy(ids.astype(np.int64)), labels).permute(0, 3, 1, 2).numpy()
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(conditions.segmentation_map(found, labels), found)
    np.testing.assert_array_equal(conditions.segmentation_map(ids[0], labels), found[:1])


def test_wrong_labels() -> None:
    with pytest.raises(ConditionError, match="found label 9, wanted 0 to 8"):
        conditions.segmentation_map(np.array([[9]]), 9)
    with pytest.raises(ConditionError, match="found label -1"):
        conditions.segmentation_map(np.array([[-1]]), 9)
    with pytest.raises(ShapeError, match="integer label ids"):
        conditions.segmentation_map(np.zeros((4, 4)), 9)
    with pytest.raises(ShapeError, match=r"wanted \(B, 9, H, W\)"):
        conditions.segmentation_map(np.zeros((1, 8, 4, 4)), 9)


@pytest.mark.parametrize("seed", range(4))
def test_coordinates_equal_area_downsampling(seed: int) -> None:
    maps = np.random.default_rng(seed).uniform(0, 1, (3, 1, 32, 64)).astype(np.float32)
    pooled = F.interpolate(torch.from_numpy(maps), scale_factor=1 / 8, mode="area").clamp(0, 1)
    wanted = (100 * pooled).round().long().numpy()[:, 0]
    np.testing.assert_array_equal(conditions.coordinate_tokens(maps, COORDINATES, 128), wanted)


def test_halves_round_to_even_as_published() -> None:
    maps = np.zeros((1, 1, 8, 16), np.float32)
    maps[..., :8], maps[..., 8:] = 0.125 / 100 * 4, 0.015  # 0.5 and 1.5 levels
    assert conditions.coordinate_tokens(maps, COORDINATES, 128).tolist() == [[[0, 2]]]


def test_a_coordinate_of_one_is_clamped_to_the_vocabulary() -> None:
    assert conditions.coordinate_tokens(np.ones((1, 1, 8, 8)), COORDINATES, 100).item() == 99
    assert conditions.coordinate_tokens(np.ones((1, 1, 8, 8)), COORDINATES, 101).item() == 100


def test_wrong_coordinates() -> None:
    for wrong in (np.full((1, 1, 8, 8), 1.1), np.zeros((1, 1, 7, 8)), np.zeros((8, 8))):
        with pytest.raises(ShapeError, match="coordinates"):
            conditions.coordinate_tokens(wrong, COORDINATES, 128)


def test_positions_of_a_whole_picture() -> None:
    found = conditions.position_coordinates(4, 8)
    assert found.shape == (1, 1, 4, 8)
    assert found[0, 0, 1, 3] == np.float32(11 / 32)


@pytest.mark.parametrize(("height", "width", "side"), [(256, 256, 64), (30, 50, 16), (10, 10, 16), (7, 5, 3)])
def test_nearest_resizing_is_torchs(height: int, width: int, side: int) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(array), size=(side, side)).numpy()
    np.testing.assert_array_equal(conditions.resize_nearest(array, side), wanted)


def test_raw_tokens() -> None:
    grid = np.arange(12).reshape(1, 3, 4)
    np.testing.assert_array_equal(conditions.raw_tokens(grid, 12), np.arange(12)[None])
    with pytest.raises(ConditionError, match="from 0 to 11, wanted 0 to 10"):
        conditions.raw_tokens(grid, 11)
    for wrong in (np.zeros((1, 2)), np.zeros(3, int), np.zeros((0, 3), int), np.zeros((1, 1, 1, 1), int)):
        with pytest.raises(ShapeError, match="condition_codes"):
            conditions.raw_tokens(wrong, 4)


def open_model(folder: Path, kind: str, **options: Any) -> Pipeline:
    run = make_checkpoint(folder / "run", kind=kind, **options)
    return trt_vqgan.load(trt_vqgan.export_checkpoint(run, folder / "bundle"), threads=1)


def test_maps_of_another_size_are_fitted(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 7, (2, 50, 41))
    with open_model(tmp_path, "segmentation") as pipe:
        found = pipe.encode_condition(segmentation=labels)
        assert found.shape == (2, 8, 8)
        np.testing.assert_array_equal(found, pipe.encode_condition(segmentation=fit_labels(labels, 32, 32)))
        padded = pipe.encode_condition(segmentation=labels, fit="pad")
        assert (padded != found).any()


def test_depth_is_scaled_before_it_is_cropped(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(0, 1, (32, 64))
    depth[0, 0] = 9  # cropped away, and still the picture's maximum, as published
    with open_model(tmp_path, "depth") as pipe:
        scaled = conditions.depth_map(depth)[:, :, :, 16:48]
        np.testing.assert_array_equal(pipe.encode_condition(depth=depth), pipe.encode_condition(depth=scaled))
        assert (pipe.encode_condition(depth=depth) != pipe.encode_condition(depth=depth[:, 16:48])).any()


def test_a_small_picture_for_upscaling_is_taken_as_it_is(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    large = picture.repeat(2, axis=0).repeat(2, axis=1)
    with open_model(tmp_path, "first_stage", params={"downsample_cond_size": 16}) as pipe:
        found = pipe.encode_condition(image=picture)
        assert found.shape == (1, 4, 4)
        np.testing.assert_array_equal(found, pipe.encode(picture[None]))
        np.testing.assert_array_equal(found, pipe.encode_condition(image=large))
        assert pipe.generate(image=picture).images.shape == (1, 32, 32, 3)
