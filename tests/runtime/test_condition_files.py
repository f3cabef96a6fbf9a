"""Conditions in files: each form, and one clear error for every file that holds something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trt_vqgan.errors import ConditionError, ImageError
from trt_vqgan.runtime.condition_files import read_depth, read_layout, read_mask, read_segmentation

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_depth_in_grey(tmp_path: Path) -> None:
    eight = RNG.integers(0, 256, (6, 9)).astype(np.uint8)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "8.png", eight)), eight)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "rgb.png", eight, "RGB")), eight)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "la.png", eight, "LA")), eight)
    sixteen = RNG.integers(0, 65536, (6, 9)).astype(np.uint16)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "16.png", sixteen)), sixteen)
    floats = RNG.uniform(-5, 900, (6, 9)).astype(np.float32)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "f.tiff", floats)), floats)
    np.save(tmp_path / "d.npy", floats.astype(np.float64))
    np.testing.assert_array_equal(read_depth(tmp_path / "d.npy"), floats)
    assert read_depth(tmp_path / "d.npy").dtype == np.float32


def test_depth_in_the_bytes_of_rgba(tmp_path: Path) -> None:
    depth = RNG.uniform(0, 3000, (6, 9)).astype(np.float32)
    rgba = np.frombuffer(depth.astype("<f4").tobytes(), np.uint8).reshape(6, 9, 4)
    np.testing.assert_array_equal(read_depth(save(tmp_path / "d.png", rgba)), depth)


def test_an_ordinary_picture_is_no_depth(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (6, 9, 4)).astype(np.uint8)
    colours[:, :, 3] = 255
    with pytest.raises(ConditionError, match="seems to be an ordinary picture"):
        read_depth(save(tmp_path / "rgba.png", colours))
    with pytest.raises(ConditionError, match="coloured picture"):
        read_depth(save(tmp_path / "rgb.png", np.ascontiguousarray(colours[:, :, :3])))


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_labels_in_pictures(tmp_path: Path, mode: str) -> None:
    ids = RNG.integers(0, 2 if mode == "1" else 7, (6, 9)).astype(np.uint16 if mode == "I;16" else np.uint8)
    if mode == "P":
        image = Image.fromarray(ids, mode="L")
        image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
        image.save(tmp_path / "a.png")
    elif mode == "1":
        Image.fromarray(ids.astype(bool)).save(tmp_path / "a.png")
    else:
        save(tmp_path / "a.png", ids)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode, "the file isn't what this test is about"
    found = read_segmentation(tmp_path / "a.png", num_labels=7)
    np.testing.assert_array_equal(found, ids)
    assert found.dtype == np.int64


def test_more_labels_than_the_model_knows(tmp_path: Path) -> None:
    ids = np.zeros((4, 4), np.uint8)
    ids[2, 1] = 7
    np.save(tmp_path / "a.npy", ids.astype(np.int32))
    for path in (save(tmp_path / "a.png", ids), tmp_path / "a.npy"):
        assert read_segmentation(path).max() == 7
        with pytest.raises(ConditionError, match=rf"{path.name}: found label 7, this model knows 0 to 6"):
            read_segmentation(path, num_labels=7)
    np.save(tmp_path / "b.npy", -ids.astype(np.int32))
    with pytest.raises(ConditionError, match="found label -7"):
        read_segmentation(tmp_path / "b.npy", num_labels=8)
    ids[2, 1] = 255
    with pytest.raises(ConditionError, match="--shift-labels"):
        read_segmentation(save(tmp_path / "c.png", ids), num_labels=183)


def test_colours_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ConditionError, match="colours don't say which label"):
        read_segmentation(save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)))
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    with pytest.raises(ConditionError, match="float64 .* wanted integers"):
        read_segmentation(tmp_path / "a.npy")


@pytest.mark.parametrize("read", [read_depth, read_segmentation, read_mask])
def test_files_that_cannot_be_read(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="no image file"):
        read(tmp_path / "text.png")
    whole = save(tmp_path / "a.png", RNG.integers(0, 7, (50, 50)).astype(np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="50 x 50 = 2500 pixels, at most 2499"):
        read(tmp_path / "a.png", max_pixels=2499)


@pytest.mark.parametrize("read", [read_depth, read_segmentation])
def test_arrays_that_cannot_be_read(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(ImageError, match="can't be read"):
        read(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="can't be read"):
        read(path)
    np.save(path, np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ImageError, match="can't be read"):
        read(path)
    for shape in ((4,), (1, 4, 4), (0, 4)):
        np.save(path, np.zeros(shape, int))
        with pytest.raises(ConditionError, match=r"\(H, W\)"):
            read(path)
    if read is read_depth:
        for value in (np.nan, np.inf, 1e30):
            np.save(path, np.full((4, 4), value))
            with pytest.raises(ConditionError, match="fill missing depth"):
                read(path)


def test_masks(tmp_path: Path) -> None:
    mask = RNG.integers(0, 2, (6, 9)).astype(bool)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", mask)), mask)
    grey = np.where(mask, 128, 127).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "l.png", grey)), mask)
    rgba = np.full((6, 9, 4), 200, np.uint8)
    rgba[:, :, 3] = np.where(mask, 255, 0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", rgba)), mask)
    rgba[:, :, 3] = 255
    assert read_mask(save(tmp_path / "o.png", rgba)).all()
    with pytest.raises(ImageError, match="mask in 8 bits"):
        read_mask(save(tmp_path / "16.png", np.zeros((4, 4), np.uint16)))


def test_layouts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"boxes": [{"class": "cat", "box": [0, 0, 1, 1]}]}))
    (layout,) = read_layout(path, ["dog", "cat"])
    assert layout.boxes[0].token == 1
    for text, message in (
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"boxes": 1}', r'a.json: layout: "boxes" is int'),
        ('{"boxes": [{"class": 1, "box": [0, 0, NaN, 1]}]}', "more than 0"),
    ):
        path.write_text(text)
        with pytest.raises(ConditionError, match=message):
            read_layout(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConditionError, match="is no JSON"):
        read_layout(path)
    with pytest.raises(ConditionError, match="can't be read"):
        read_layout(tmp_path / "none.json")
