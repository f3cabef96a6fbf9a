"""Parts of pictures kept: masks to codes, variations, pasted pixels, previews; test_golden.py has the completions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import Cancelled, ShapeError
from trt_vqgan.runtime.editing import is_region, kept_grid, paste, paste_share, region_mask, resampled
from trt_vqgan.runtime.pipeline import UNFINISHED_GREY, Pipeline, Preview

SIDE = 32
GRID = 8
FACTOR = 4


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("class")
    run = make_checkpoint(folder / "run", kind="class")
    with trt_vqgan.load(trt_vqgan.export_checkpoint(run, folder / "bundle"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)


def half() -> np.ndarray:
    return region_mask("top", SIDE, SIDE)


def test_regions() -> None:
    for name, rows, columns in (
        ("top", slice(0, 4), slice(None)),
        ("bottom", slice(5, 9), slice(None)),
        ("left", slice(None), slice(0, 3)),
        ("right", slice(None), slice(4, 7)),
        ("1,2,3,4", slice(2, 6), slice(1, 4)),
    ):
        wanted = np.zeros((9, 7), bool)
        wanted[rows, columns] = True
        np.testing.assert_array_equal(region_mask(name, 9, 7), wanted)
        assert is_region(name)
    assert not region_mask("right", 1, 1).any()
    assert not is_region("mask.png")
    for wrong, message in (
        ("1,2,3,8", "not inside the picture of 7 x 9"),
        ("-1,2,3,4", "not inside"),
        ("0,0,0,4", "not inside"),
        ("1,2,3", "wanted top, bottom"),
        ("middle", "wanted top, bottom"),
    ):
        with pytest.raises(ShapeError, match=message):
            region_mask(wrong, 9, 7)


def test_one_pixel_frees_its_whole_code() -> None:
    frame = {"picture": (SIDE, SIDE), "size": (SIDE, SIDE), "factor": FACTOR, "fit": "crop"}
    mask = np.ones((SIDE, SIDE), bool)
    mask[9, 14] = False
    found = kept_grid(mask, **frame)  # type: ignore[arg-type]
    assert not found[2, 3]
    assert found.sum() == GRID * GRID - 1
    codes = np.eye(GRID, dtype=bool)
    np.testing.assert_array_equal(kept_grid(codes, **frame), codes)  # type: ignore[arg-type]


def test_kept_codes_stay_and_the_rest_is_drawn(pipe: Pipeline, picture: np.ndarray) -> None:
    mask = np.random.default_rng(1).random((GRID, GRID)) < 0.5
    codes = pipe.encode(picture[None])[0]
    result = pipe.generate(class_id=1, init=picture, keep=mask, n=3, seed=4)
    np.testing.assert_array_equal(result.codes[:, mask], np.repeat(codes[mask][None], 3, axis=0))
    assert (result.codes[0] != result.codes[1]).any()
    for batch_size in (1, 2):
        again = pipe.generate(class_id=1, init=picture, keep=mask, n=3, seed=4, batch_size=batch_size)
        np.testing.assert_array_equal(again.codes, result.codes)
    by_codes = pipe.generate(class_id=1, kept_codes=np.where(mask, codes, -1), n=3, seed=4)
    np.testing.assert_array_equal(by_codes.codes, result.codes)


def test_one_picture_an_init(pipe: Pipeline, picture: np.ndarray) -> None:
    result = pipe.generate(class_id=0, init=np.stack([picture, picture[::-1]]), keep=half(), seed=2)
    assert len(result.codes) == 2
    flipped = pipe.generate(class_id=0, init=picture[::-1], keep=half(), seed=2, first_picture=1)
    np.testing.assert_array_equal(flipped.codes[0], result.codes[1])


def test_variations_draw_a_share_again(pipe: Pipeline, picture: np.ndarray) -> None:
    codes = pipe.encode(picture[None])[0]
    request = pipe.request(class_id=0, init=picture, resample=0.3, n=3, seed=7)
    free = request.kept == -1
    assert free.sum(axis=1).tolist() == [round(0.3 * GRID * GRID)] * 3
    assert len({row.tobytes() for row in free}) == 3, "each picture draws others"
    result = pipe.generate(class_id=0, init=picture, resample=0.3, n=3, seed=7)
    changed = (result.codes != codes).reshape(3, -1)
    assert changed.any(axis=1).all()
    assert not (changed & ~free).any()
    alone = pipe.generate(class_id=0, init=picture, resample=0.3, seed=7, first_picture=2)
    np.testing.assert_array_equal(alone.codes[0], result.codes[2])


def test_variations_leave_alone_what_is_kept(pipe: Pipeline, picture: np.ndarray) -> None:
    free = pipe.request(class_id=0, init=picture, keep=half(), resample=0.5, n=2).kept.reshape(2, GRID, GRID) == -1
    assert not free[:, : GRID // 2].any()
    assert free.sum(axis=(1, 2)).tolist() == [GRID * GRID // 4] * 2


def test_chosen_codes_are_spread_evenly() -> None:
    everywhere = np.ones((GRID, GRID), bool)
    counts = sum(resampled(0.25, everywhere, seed=5, picture=i).astype(int) for i in range(2000))
    # binomial, 2000 draws of 1/4: deviation 19.4; the largest of 64 stays within five
    assert np.abs(counts - 500).max() < 97
    assert resampled(1, everywhere, seed=0, picture=0).all()
    assert resampled(1e-9, everywhere, seed=0, picture=0).sum() == 1
    assert not resampled(1, ~everywhere, seed=0, picture=0).any()


def test_pasted_pixels_are_the_originals(pipe: Pipeline, picture: np.ndarray) -> None:
    options = {"class_id": 0, "init": picture, "keep": half(), "seed": 1}
    plain, pasted = pipe.generate(**options).images[0], pipe.generate(**options, paste=True).images[0]
    share = paste_share(np.repeat([[True], [False]], GRID // 2, axis=0).repeat(GRID, axis=1), FACTOR)
    assert (share[0] == 1).all()
    np.testing.assert_array_equal(pasted[share == 1], picture[share == 1])
    np.testing.assert_array_equal(pasted[SIDE // 2 :], plain[SIDE // 2 :])
    assert np.all(np.diff(share[:, 0]) <= 0), "the blend falls towards the drawn codes"
    assert 0 < share[SIDE // 2 - 1, 0] < 0.2


def test_paste_blends_between_the_two() -> None:
    made, original = np.zeros((8, 32, 3), np.uint8), np.full((8, 32, 3), 180, np.uint8)
    keep = np.zeros((1, 4), bool)
    keep[0, :2] = True
    found = paste(made, original, keep, seam=8)[4, :, 0]
    assert found.tolist() == [180] * 8 + [160, 140, 120, 100, 80, 60, 40, 20] + [0] * 16
    np.testing.assert_array_equal(paste(made, original, np.ones((1, 4), bool)), original)


def test_padding_is_never_kept(pipe: Pipeline) -> None:
    wide = np.full((16, 32, 3), 90, np.uint8)
    kept = pipe.request(class_id=0, init=wide, keep=np.ones((16, 32), bool), fit="pad").kept.reshape(GRID, GRID)
    np.testing.assert_array_equal((kept >= 0).any(axis=1), [False, False, True, True, True, True, False, False])


def test_a_mask_is_over_the_picture_as_it_was_given(pipe: Pipeline) -> None:
    wide = np.full((64, 128, 3), 90, np.uint8)
    mask = np.zeros((64, 128), bool)
    mask[:, :64] = True  # the middle half of the width survives the crop
    kept = pipe.request(class_id=0, init=wide, keep=mask).kept.reshape(GRID, GRID)
    np.testing.assert_array_equal(kept >= 0, np.arange(GRID)[None].repeat(GRID, axis=0) < GRID // 2)


def test_everything_kept_draws_nothing(pipe: Pipeline, picture: np.ndarray) -> None:
    result = pipe.generate(class_id=0, init=picture, keep=np.ones((SIDE, SIDE), bool), paste=True)
    np.testing.assert_array_equal(result.codes, pipe.encode(picture[None]))
    np.testing.assert_array_equal(result.images[0], picture)


PICTURE = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": PICTURE}, "wanted keep too"),
        ({"keep": np.ones((SIDE, SIDE), bool)}, "keep: wanted init too"),
        ({"resample": 0.5}, "resample: wanted init too"),
        ({"paste": True}, "paste: wanted init too"),
        ({"init": PICTURE, "keep": np.ones((31, 32), bool)}, r"keep: found bool \(31, 32\), wanted bool \(32, 32\)"),
        ({"init": PICTURE, "keep": np.ones((SIDE, SIDE))}, "keep: found float64"),
        ({"init": PICTURE, "resample": 0.0}, "resample: found 0.0"),
        ({"init": PICTURE, "resample": 1.5}, "resample: found 1.5"),
        ({"init": PICTURE.astype(int), "resample": 0.5}, "init: found int64"),
        ({"init": PICTURE[:, :, :1], "resample": 0.5}, "init: found uint8"),
        ({"init": PICTURE, "keep": half(), "kept_codes": np.zeros((8, 8), int)}, "leave init out"),
        ({"kept_codes": np.zeros((7, 8), int)}, "kept_codes: found int64"),
        ({"kept_codes": np.full((8, 8), -2)}, "kept_codes: found -2"),
        ({"kept_codes": np.full((8, 8), 48)}, "kept_codes: found 48"),
        ({"fit": "bend"}, "fit: found 'bend'"),
        ({"on_preview": print, "preview_every": 0}, "preview_every: found 0"),
        ({"preview_every": 4}, "wanted on_preview too"),
    ],
)
def test_wrong_editing(pipe: Pipeline, options: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        pipe.generate(class_id=0, **options)


def test_an_unknown_argument(pipe: Pipeline) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sizes'"):
        pipe.generate(sizes=3)  # type: ignore[call-arg]


def test_previews_show_what_is_drawn(pipe: Pipeline) -> None:
    seen: list[Preview] = []
    result = pipe.generate(class_id=[0, 1], seed=3, on_preview=seen.append, preview_every=24)
    assert [(p.picture, p.done_codes) for p in seen] == [(0, 24), (1, 24), (0, 48), (1, 48)]
    for preview in seen:
        drawn = preview.codes >= 0
        np.testing.assert_array_equal(preview.codes[drawn], result.codes[preview.picture][drawn])
        pixels = drawn.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
        assert (preview.image[~pixels] == UNFINISHED_GREY).all()
        assert (preview.image[pixels] != UNFINISHED_GREY).any()
    np.testing.assert_array_equal(pipe.generate(class_id=[0, 1], seed=3).codes, result.codes)


def test_previews_show_what_is_kept_from_the_start(pipe: Pipeline, picture: np.ndarray) -> None:
    seen: list[Preview] = []
    keep = region_mask("bottom", SIDE, SIDE)
    pipe.generate(class_id=0, init=picture, keep=keep, on_preview=seen.append)
    assert [p.done_codes for p in seen] == [32 + GRID * i for i in range(1, 5)]


def test_a_preview_may_cancel(pipe: Pipeline) -> None:
    with pytest.raises(Cancelled, match="by on_preview after 0 of 1"):
        pipe.generate(class_id=0, on_preview=lambda preview: False)
