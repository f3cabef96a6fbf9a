"""Boxes to tokens: against numbers that the published builder gave, rebuilt for crops, and every wrong layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import ConditionError
from trt_vqgan.runtime.layouts import Layout, LayoutBox, layout_tokens, read_layouts, window_crop
from trt_vqgan.runtime.window_plan import window_origin

VOCAB = 8192
CLASSES = [f"thing-{i}" for i in range(60)]
SCENE: dict[str, Any] = {
    "boxes": [
        {"class": 17, "box": [0.1, 0.2, 0.3, 0.4]},
        {"class": "thing-0", "box": [0.0, 0.0, 1.0, 1.0]},
        {"class": 58, "box": [0.503, 0.71, 0.497, 0.29], "group": True},
        {"class": 3, "box": [0.05, 0.9, 0.02, 0.05], "occluded": True, "inside": True},
        {"class": "9", "box": [1 / 3, 2 / 3, 1 / 6, 1 / 7], "depiction": True},
    ]
}
# Printed by the published ObjectsBoundingBoxConditionalBuilder(60, …, 8192, …, True, True) for these boxes, unshuffled;
# the placeholders that follow are left out.
PUBLISHED = [
    (92, None, [17, 1629, 4806, 0, 0, 8099, 118, 5715, 8099, 603, 7204, 7656, 249, 5340, 6524], [0, 8099]),
    (92, (0.25, 0.5, 0.5, 0.5), [17, 1629, 4806, 0, 0, 8099, 118, 5715, 8099, 249, 5340, 6524], [3982, 8077]),
    (92, (7 / 24, 0.2, 2 / 3, 0.8), [17, 1629, 4806, 0, 0, 8099, 118, 5715, 8099, 249, 5340, 6524], [1646, 8095]),
    (24, None, [17, 1629, 4806, 0, 0, 8099, 118, 5715, 8099, 603, 7204, 7656, 249, 5340, 6524], []),
    (24, (0.25, 0.5, 0.5, 0.5), [17, 0, 6443, 0, 0, 8099, 118, 3375, 8099, 249, 2715, 4994], []),
    (24, (7 / 24, 0.2, 2 / 3, 0.8), [17, 0, 4000, 0, 0, 8099, 118, 5158, 8099, 249, 4686, 6148], []),
]


@pytest.mark.parametrize(("num_tokens", "crop", "objects", "crop_tokens"), PUBLISHED)
def test_the_published_tokens(num_tokens: int, crop: Any, objects: list[int], crop_tokens: list[int]) -> None:
    (layout,) = read_layouts(SCENE, CLASSES)
    model: dict[str, Any] = {"form": "boxes+crop" if crop_tokens else "boxes", "num_tokens": num_tokens}
    check_published(layout, crop, objects, crop_tokens, model)


# The same of the published ObjectsCenterPointsConditionalBuilder.
PUBLISHED_POINTS = [
    (92, None, [17, 3262, 0, 4004, 118, 6907, 603, 7385, 249, 5977], [0, 8099]),
    (92, (0.25, 0.5, 0.5, 0.5), [17, 3262, 0, 4004, 118, 6907, 249, 5977], [3982, 8077]),
    (92, (7 / 24, 0.2, 2 / 3, 0.8), [17, 3262, 0, 4004, 118, 6907, 249, 5977], [1646, 8095]),
    (24, None, [17, 3262, 0, 4004, 118, 6907, 603, 7385, 249, 5977], []),
    (24, (0.25, 0.5, 0.5, 0.5), [17, 3267, 0, 4004, 118, 5737, 249, 3810], []),
    (24, (7 / 24, 0.2, 2 / 3, 0.8), [17, 2000, 0, 4004, 118, 6629, 249, 5417], []),
]


@pytest.mark.parametrize(("num_tokens", "crop", "objects", "crop_tokens"), PUBLISHED_POINTS)
def test_the_published_tokens_of_centre_points(
    num_tokens: int, crop: Any, objects: list[int], crop_tokens: list[int]
) -> None:
    (layout,) = read_layouts(SCENE, CLASSES)
    model: dict[str, Any] = {"form": "points+crop" if crop_tokens else "points", "num_tokens": num_tokens}
    check_published(layout, crop, objects, crop_tokens, model)


def check_published(layout: Layout, crop: Any, objects: list[int], crop_tokens: list[int], model: Any) -> None:
    found = layout_tokens(layout, vocab_size=VOCAB, crop=crop, **model)
    padding = [VOCAB - 1] * (model["num_tokens"] - len(objects) - len(crop_tokens))
    assert found.tolist() == objects + padding + crop_tokens
    if crop is not None:
        (layout,) = read_layouts(SCENE | {"crop": list(crop)}, CLASSES)
        np.testing.assert_array_equal(layout_tokens(layout, vocab_size=VOCAB, **model), found)


def test_a_window_is_a_crop() -> None:
    """A 24 x 20 grid: the windows of the published script for scenes."""
    assert [window_origin(i, 24, side=16, rule="margin") for i in (0, 7, 8, 12, 15, 16, 23)] == [0, 0, 1, 5, 8, 8, 8]
    assert window_origin(5, 16, side=16, rule="margin") == 0
    assert window_crop(4, 7, side=16, height=20, width=24) == (7 / 24, 0.2, 16 / 24, 0.8)


@given(
    x=st.floats(0, 1), y=st.floats(0, 1), width=st.floats(1e-3, 1), height=st.floats(1e-3, 1),
    vocab=st.integers(4, 9000), token=st.integers(0, 2),
    form=st.sampled_from([("boxes", 12), ("boxes+crop", 14), ("points", 12), ("points+crop", 92)]),
)  # fmt: skip
def test_tokens_are_in_the_vocabulary(
    x: float, y: float, width: float, height: float, vocab: int, form: tuple[Any, int], token: int
) -> None:
    box = (x, y, min(width, 1 - x), min(height, 1 - y))
    layout = Layout(boxes=(LayoutBox(token=token, box=box),))
    found = layout_tokens(layout, form=form[0], num_tokens=form[1], vocab_size=vocab)
    assert found.shape == (form[1],)
    assert found.min() >= 0
    assert found.max() < vocab


def test_forms_of_a_layout() -> None:
    box = {"class": 1, "box": [0, 0, 0.5, 0.5]}
    one = Layout(boxes=(LayoutBox(token=1, box=(0.0, 0.0, 0.5, 0.5)),))
    assert read_layouts({"boxes": [box]}) == read_layouts([box]) == read_layouts(one) == [one]
    assert read_layouts([{"boxes": [box]}, one]) == [one, one]
    assert read_layouts({"boxes": []}) == [Layout(boxes=())]


def scene(**box: Any) -> dict[str, Any]:
    return {"boxes": [{"class": 1, "box": [0.1, 0.1, 0.2, 0.2]} | box]}


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (scene(box=[0.9, 0.1, 0.2, 0.2]), "box 0: reaches .* outside the picture"),
        (scene(box=[-0.1, 0.1, 0.2, 0.2]), "outside the picture"),
        (scene(box=[0.1, 0.1, 20, 20]), "fractions from 0 to 1, not pixels"),
        (scene(box=[0.1, 0.1, 0, 0.2]), "more than 0"),
        (scene(box=[0.1, 0.1, float("nan"), 0.2]), "more than 0"),
        (scene(box=[0.1, 0.1, 0.2]), r"wanted \[x, y, width, height\]"),
        (scene(box="0.1"), r"wanted \[x, y, width, height\]"),
        (scene(box=[0.1, 0.1, 0.2, "0.2"]), r"wanted \[x, y, width, height\]"),
        (scene(**{"class": "unicorn"}), r"'unicorn' is unknown, wanted one of thing-0, .* \(60 classes"),
        (scene(**{"class": "²"}), "unknown"),
        (scene(**{"class": -1}), "out of range"),
        (scene(**{"class": 60 * 16}), "out of range"),
        (scene(**{"class": 1.5}), "wanted a name or an id"),
        (scene(**{"class": True}), "wanted a name or an id"),
        (scene(group="yes"), "wanted true or false"),
        (scene(colour="red"), "unknown key 'colour'"),
        ({"boxes": [{"class": 1}]}, "has no 'box'"),
        ({"boxes": [[1]]}, "box 0: found list"),
        ({"boxes": {}}, '"boxes" is dict'),
        ({"boxes": [], "crop": [0, 0, 2, 2]}, "crop: reaches"),
        ({"objects": []}, "unknown key 'objects'"),
        ("boxes", "found str"),
        ([], "found list"),
        (7, "found int"),
    ],
)
def test_wrong_layouts(layout: object, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        read_layouts(layout, CLASSES)


def test_names_and_attributes_need_class_names() -> None:
    with pytest.raises(ConditionError, match="names no classes: give an id"):
        read_layouts(scene(**{"class": "person"}))
    with pytest.raises(ConditionError, match="export it again with --class-names"):
        read_layouts(scene(group=True))


def test_what_a_model_has_no_room_for() -> None:
    box = LayoutBox(token=1, box=(0.0, 0.0, 0.5, 0.5))
    with pytest.raises(ConditionError, match="found 31 boxes, this model takes at most 30"):
        layout_tokens(Layout(boxes=(box,) * 31), form="boxes+crop", num_tokens=92, vocab_size=VOCAB)
    with pytest.raises(ConditionError, match="found 46 boxes, this model takes at most 45"):
        layout_tokens(Layout(boxes=(box,) * 46), form="points+crop", num_tokens=92, vocab_size=VOCAB)
    with pytest.raises(ConditionError, match="class token 63 is out of range"):
        layout_tokens(Layout(boxes=(LayoutBox(token=63, box=box.box),)), form="boxes", num_tokens=12, vocab_size=64)


def test_tokens_that_nothing_tells_apart() -> None:
    layout = Layout(boxes=(LayoutBox(token=1, box=(0.0, 0.0, 0.5, 0.5)),))
    with pytest.raises(ConditionError, match="92 tokens, and neither .* --layout-form boxes.crop, points or points.cr"):
        layout_tokens(layout, form=None, num_tokens=92, vocab_size=VOCAB)
    with pytest.raises(ConditionError, match="takes 1 tokens, which are no boxes and no points"):
        layout_tokens(layout, form=None, num_tokens=1, vocab_size=VOCAB)
    only = layout_tokens(layout, form=None, num_tokens=93, vocab_size=VOCAB)  # 31 boxes, and nothing else
    np.testing.assert_array_equal(only, layout_tokens(layout, form="boxes", num_tokens=93, vocab_size=VOCAB))


def test_a_scene_model_takes_a_layout(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="boxes")
    bundle = trt_vqgan.export_checkpoint(run, tmp_path / "bundle", class_names=["cat", "dog"])
    layout = {"boxes": [{"class": "dog", "box": [0, 0, 1, 1]}]}
    with trt_vqgan.load(bundle, threads=1) as pipe:
        tokens = pipe.encode_condition(layout=layout)
        assert tokens.tolist() == [[1, 0, 63] + [63] * 9]
        found = pipe.generate(layout=layout, n=2, seed=3).codes
        np.testing.assert_array_equal(found, pipe.generate(condition_codes=tokens, n=2, seed=3).codes)
        with pytest.raises(ConditionError, match="give layout"):
            pipe.generate()


def test_a_scene_model_of_centre_points(tmp_path: Path) -> None:
    """What the config leaves open, an option of export says; the window's rule and the layout are the same."""
    params = {"cond_stage_key": "objects_center_points"}
    run = make_checkpoint(tmp_path / "run", kind="boxes", params=params)
    layout = {"boxes": [{"class": 3, "box": [0, 0, 1, 1]}]}
    with (
        trt_vqgan.load(trt_vqgan.export_checkpoint(run, tmp_path / "open"), threads=1) as pipe,
        pytest.raises(ConditionError, match="export it again with --layout-form"),
    ):
        pipe.encode_condition(layout=layout)
    bundle = trt_vqgan.export_checkpoint(run, tmp_path / "bundle", layout_form="points+crop")
    with trt_vqgan.load(bundle, threads=1) as pipe:
        assert pipe.encode_condition(layout=layout).tolist() == [[3, 36, *[63] * 8, 0, 63]]
        large = pipe.generate(layout=layout, size=(40, 36), greedy=True)
        assert large.codes.shape == (1, 9, 10)
