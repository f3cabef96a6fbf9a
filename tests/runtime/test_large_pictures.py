"""Pictures larger than the training size through the public call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.runtime.plain_window import plain_window
from trt_vqgan.errors import ConditionError, ShapeError, SpecError
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.runtime.layouts import layout_tokens, read_layouts, window_crop
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.window_memory import window_bytes

SIZE = (48, 40)  # width and height in pixels: 12 x 10 codes, the training grid is 8 x 8
NULL = 4
LAYOUT = {"boxes": [{"class": 3, "box": [0.1, 0.2, 0.5, 0.3]}, {"class": 7, "box": [0.6, 0.5, 0.4, 0.5]}]}


class Model:
    """An exported checkpoint, opened, and its run folder."""

    def __init__(self, folder: Path, kind: str, *, null_class: int | None = None, **options: Any) -> None:
        self.run = make_checkpoint(folder / "run", kind=kind, **options)
        bundle = trt_vqgan.export_checkpoint(self.run, folder / "bundle", null_class=null_class)
        self.pipe: Pipeline = trt_vqgan.load(bundle, threads=2)

    def plain(self, condition: Any, kept: np.ndarray, **options: Any) -> np.ndarray:
        checkpoint = open_checkpoint(self.run)
        spec = checkpoint.spec
        gpt = load_gpt(spec.transformer, checkpoint.weights)
        size = spec.autoencoder.codebook_size
        return plain_window(gpt, condition, kept, side=8, codebook_size=size, **options)


@pytest.fixture(scope="module")
def of_class(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(tmp_path_factory.mktemp("class"), "class")
    with model.pipe:
        yield model


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(tmp_path_factory.mktemp("guided"), "class", null_class=NULL)
    with model.pipe:
        yield model


def free() -> np.ndarray:
    return np.full((10, 12), -1)


def test_a_class_model(of_class: Model) -> None:
    result = of_class.pipe.generate(class_id=2, size=SIZE, greedy=True)
    assert result.images.shape == (1, 40, 48, 3)
    np.testing.assert_array_equal(result.codes[0], of_class.plain(lambda i, j: np.array([[2]]), free()))
    np.testing.assert_array_equal(result.images, of_class.pipe.decode(result.codes))


@pytest.mark.parametrize("kind", ["depth", "segmentation"])
def test_a_model_with_a_map(tmp_path: Path, kind: str) -> None:
    model = Model(tmp_path, kind)
    value = np.arange(40 * 48).reshape(40, 48) % 5
    with model.pipe as pipe:
        grid = pipe.encode_condition(**{kind: value}, size=SIZE)
        result = pipe.generate(**{kind: value}, size=SIZE, greedy=True)
        raw = pipe.generate(condition_codes=grid, size=SIZE, greedy=True)
        cells, side = grid.shape[2] * 8 // 12, 8

        def condition(i: int, j: int) -> np.ndarray:
            top, left = i * cells // side, j * cells // side
            return grid[:, top : top + cells, left : left + cells].reshape(1, -1)

        np.testing.assert_array_equal(result.codes[0], model.plain(condition, free()))
        np.testing.assert_array_equal(raw.codes, result.codes)


def test_a_scene_model_has_tokens_of_its_own_in_each_window(tmp_path: Path) -> None:
    model = Model(tmp_path, "boxes")
    with model.pipe as pipe:
        (layout,) = read_layouts(LAYOUT)
        spec = pipe.spec

        def condition(i: int, j: int) -> np.ndarray:
            crop = window_crop(i, j, side=8, height=10, width=12)
            tokens = layout_tokens(
                layout,
                form="boxes",
                num_tokens=spec.condition.num_tokens,
                vocab_size=spec.transformer.vocab_size,
                crop=crop,
            )
            return tokens[None]

        result = pipe.generate(layout=LAYOUT, size=SIZE, greedy=True)
        np.testing.assert_array_equal(result.codes[0], model.plain(condition, free(), boxes=True))
        with pytest.raises(ConditionError, match="needs its layout"):
            pipe.generate(condition_codes=np.zeros((1, spec.condition.num_tokens), int), size=SIZE)


def test_coordinates_of_the_whole_picture(tmp_path: Path) -> None:
    model = Model(tmp_path, "coord")
    with model.pipe as pipe:
        grid = pipe.encode_condition(size=SIZE)
        result = pipe.generate(size=SIZE, greedy=True)
        assert grid.shape == (1, 10, 12)
        wanted = model.plain(lambda i, j: grid[:, i : i + 8, j : j + 8].reshape(1, -1), free())
        np.testing.assert_array_equal(result.codes[0], wanted)


def test_a_picture_does_not_depend_on_its_neighbours_or_the_memory(of_class: Model) -> None:
    pipe = of_class.pipe
    wanted = pipe.generate(n=3, seed=4, size=SIZE)
    one = window_bytes(pipe.spec, pipe.code_generator.engine)
    for options in ({"batch_size": 1}, {"batch_size": 2}, {"memory_bytes": one}, {"window_plan": "plain"}):
        found = pipe.generate(n=3, seed=4, size=SIZE, **options)
        np.testing.assert_array_equal(found.codes, wanted.codes)
    assert pipe.generate(seed=4, size=SIZE, memory_bytes=one).window_report.windows_recomputed > 0
    assert wanted.window_report.windows_recomputed == 0


def test_kept_parts_stay(of_class: Model) -> None:
    pipe = of_class.pipe
    start = pipe.generate(class_id=1, size=SIZE, seed=1)
    keep = np.zeros((40, 48), bool)
    keep[:20] = True
    # the codes of a decoded picture needn't be those that made it, so the codes themselves are kept
    kept = free()
    kept[:5] = start.codes[0, :5]
    found = pipe.generate(class_id=1, size=SIZE, kept_codes=kept, greedy=True)
    np.testing.assert_array_equal(found.codes[0], of_class.plain(lambda i, j: np.array([[1]]), kept))
    edited = pipe.generate(class_id=1, size=SIZE, init=start.images[0], keep=keep, seed=2)
    np.testing.assert_array_equal(edited.codes[0, :5], pipe.encode(start.images)[0, :5])


def test_previews_and_progress_of_a_large_picture(of_class: Model) -> None:
    previews: list[Any] = []
    progress: list[Any] = []
    of_class.pipe.generate(
        class_id=1, size=SIZE, on_preview=previews.append, preview_every=30, on_progress=progress.append
    )
    assert [preview.image.shape for preview in previews] == [(40, 48, 3)] * len(previews)
    assert len(previews) == 3
    assert progress[-1].done_codes == progress[-1].total_codes == 120


def test_decoding_in_tiles_is_nearly_the_same(of_class: Model) -> None:
    whole = of_class.pipe.generate(class_id=1, size=(128, 64), greedy=True)
    tiles = of_class.pipe.generate(class_id=1, size=(128, 64), greedy=True, decode_tiles=True)
    np.testing.assert_array_equal(tiles.codes, whole.codes)
    assert tiles.images.shape == whole.images.shape
    assert not np.array_equal(tiles.images, whole.images)


def test_a_shifted_window_is_another_picture_of_the_same_size(of_class: Model) -> None:
    exact = of_class.pipe.generate(class_id=1, size=SIZE, greedy=True)
    shifted = of_class.pipe.generate(class_id=1, size=SIZE, greedy=True, window_shift=4)
    assert shifted.images.shape == exact.images.shape
    assert shifted.window_report.positions_computed < exact.window_report.positions_computed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (50, 40)}, "wanted multiples of 4, such as 48x40"),
        ({"size": (28, 40)}, "at least 32x32"),
        ({"size": 64}, r"wanted \(width, height\)"),
        ({"size": (64, 64.0)}, r"wanted \(width, height\)"),
        ({"size": (20000, 20000)}, "of memory"),
        ({"size": SIZE, "window_shift": 5}, "window shift: found 5, wanted 1 to 4"),
        ({"size": SIZE, "window_plan": "fast"}, "window_plan"),
        ({"size": SIZE, "memory_bytes": -1}, "memory_bytes"),
        ({"size": SIZE, "memory_bytes": 1000}, "one window's cache takes 1 MB, found 1 MB; wanted at least that"),
        ({"size": SIZE, "kept_codes": np.zeros((8, 8), int)}, r"wanted integers \(B, 10, 12\)"),
    ],
)
def test_wrong_sizes(of_class: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        of_class.pipe.generate(**options)


def test_models_whose_order_is_their_own_are_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, "class", permuter="ZCurve")
    with model.pipe as pipe, pytest.raises(SpecError, match="an order of its own"):
        pipe.generate(size=SIZE)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guidance_follows_its_formula_in_every_window(guided: Model, scale: float) -> None:
    found = guided.pipe.generate(class_id=1, size=SIZE, guidance=scale, greedy=True)
    wanted = guided.plain(lambda i, j: np.array([[1]]), free(), null=np.array([NULL]), scale=scale)
    np.testing.assert_array_equal(found.codes[0], wanted)
    plain = guided.pipe.generate(class_id=1, size=SIZE, guidance=scale, greedy=True, window_plan="plain")
    np.testing.assert_array_equal(plain.codes, found.codes)
    without = guided.plain(lambda i, j: np.array([[1]]), free())
    assert (found.codes[0] != without).any(), "guidance changes nothing here"


def test_guided_pictures_do_not_depend_on_their_neighbours_or_the_memory(guided: Model) -> None:
    options: dict[str, Any] = {"class_id": [0, 1, 2], "seed": 4, "size": SIZE, "guidance": 2.5, "window_shift": 2}
    wanted = guided.pipe.generate(**options)
    one = 2 * window_bytes(guided.pipe.spec, guided.pipe.code_generator.engine)
    for change in ({"batch_size": 1}, {"memory_bytes": one}, {"window_plan": "plain"}):
        np.testing.assert_array_equal(guided.pipe.generate(**(options | change)).codes, wanted.codes)
    kept = wanted.codes.copy()
    kept[:, 3:] = -1
    np.testing.assert_array_equal(guided.pipe.generate(**options, kept_codes=kept).codes, wanted.codes)
    one = guided.pipe.generate(**(options | {"guidance": 1}))
    np.testing.assert_array_equal(one.codes, guided.pipe.generate(**(options | {"guidance": None})).codes)
    assert wanted.window_report.positions_computed == one.window_report.positions_computed
