"""Any size to the model's: against torch's interpolation, and what may never happen to labels and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tolerances import BILINEAR_ABSOLUTE
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.fitting import FITS, check_fit, fit_labels, fit_mask, fit_picture, fit_scaled_depth

RNG = np.random.default_rng(0)


def torch_resized(maps: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    options = {} if mode == "nearest" else {"align_corners": False, "antialias": False}
    return F.interpolate(torch.from_numpy(maps), size=(height, width), mode=mode, **options).numpy()


@pytest.mark.parametrize("shape", [(40, 61), (100, 33), (7, 9), (32, 50), (5, 200)])
def test_depth_is_the_published_resize_and_crop(shape: tuple[int, int]) -> None:
    """OpenCV's bilinear is torch's without antialiasing; albumentations' sizes and crop by their formulas."""
    maps = RNG.uniform(-1, 1, (2, 1, *shape)).astype(np.float32)
    height, width = (round(side * (32 / min(shape))) for side in shape)
    top, left = (height - 32) // 2, (width - 32) // 2
    wanted = torch_resized(maps, height, width, "bilinear")[:, :, top : top + 32, left : left + 32]
    np.testing.assert_allclose(fit_scaled_depth(maps, 32, 32), wanted, atol=BILINEAR_ABSOLUTE)


@pytest.mark.parametrize("shape", [(40, 61), (7, 9), (64, 64)])
def test_labels_are_the_published_nearest(shape: tuple[int, int]) -> None:
    labels = RNG.integers(0, 182, shape)
    height, width = (round(side * (32 / min(shape))) for side in shape)
    top, left = (height - 32) // 2, (width - 32) // 2
    resized = torch_resized(labels[None, None].astype(np.float32), height, width, "nearest")[0, 0]
    np.testing.assert_array_equal(fit_labels(labels, 32, 32), resized[top : top + 32, left : left + 32])
    np.testing.assert_array_equal(fit_labels(np.stack([labels] * 2), 32, 32)[1], fit_labels(labels, 32, 32))


@given(
    height=st.integers(1, 70), width=st.integers(1, 70), new_height=st.integers(1, 40), new_width=st.integers(1, 40),
    fit=st.sampled_from(FITS),
)  # fmt: skip
def test_every_size_fits(height: int, width: int, new_height: int, new_width: int, fit: str) -> None:
    labels = np.random.default_rng(height * 71 + width).integers(0, 2, (height, width)) * 100 + 50
    found = fit_labels(labels, new_height, new_width, fit=fit)  # type: ignore[arg-type]
    assert found.shape == (new_height, new_width)
    assert set(np.unique(found)) <= set(np.unique(labels)), "a label that wasn't there is an interpolated one"
    picture = np.full((height, width, 3), 77, np.uint8)
    fitted = fit_picture(picture, new_height, new_width, fit=fit)  # type: ignore[arg-type]
    assert fitted.shape == (new_height, new_width, 3)
    assert (fitted == 77).all()
    depth = fit_scaled_depth(np.full((1, 1, height, width), 0.5, np.float32), new_height, new_width, fit=fit)  # type: ignore[arg-type]
    np.testing.assert_allclose(depth, np.full((1, 1, new_height, new_width), 0.5), atol=1e-6)
    whole = fit_mask(np.ones((height, width), bool), new_height, new_width, fit=fit)  # type: ignore[arg-type]
    assert whole.shape == (new_height, new_width)
    assert fit == "pad" or whole.all()
    assert not fit_mask(np.zeros((height, width), bool), new_height, new_width, fit=fit).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", FITS)
def test_what_fits_already_comes_back_as_it_is(fit: str) -> None:
    picture = RNG.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit_picture(picture, 24, 32, fit=fit), picture)  # type: ignore[arg-type]
    depth = RNG.uniform(-1, 1, (1, 1, 24, 32)).astype(np.float32)
    np.testing.assert_array_equal(fit_scaled_depth(depth, 24, 32, fit=fit), depth)  # type: ignore[arg-type]
    mask = picture[:, :, 0] > 100
    np.testing.assert_array_equal(fit_mask(mask, 24, 32, fit=fit), mask)  # type: ignore[arg-type]


def test_crop_takes_the_middle_and_pad_keeps_all() -> None:
    labels = np.repeat(np.arange(4)[None], 2, axis=0)
    np.testing.assert_array_equal(fit_labels(labels, 2, 2), [[1, 2]] * 2)
    np.testing.assert_array_equal(fit_labels(labels, 4, 4, fit="pad"), [[0, 1, 2, 3]] * 4)
    np.testing.assert_array_equal(fit_labels(labels, 2, 2, fit="stretch"), [[0, 2]] * 2)
    padded = fit_mask(np.ones((2, 4), bool), 4, 4, fit="pad")
    np.testing.assert_array_equal(padded.any(axis=1), [False, True, True, False])


def test_a_mask_keeps_only_whole_pixels() -> None:
    mask = np.ones((30, 30), bool)
    mask[14, 14] = False
    found = fit_mask(mask, 10, 10)
    assert not found[4, 4]
    assert found.sum() == 99
    mask = np.ones((40, 40), bool)
    mask[:, 15:] = False
    assert fit_mask(mask, 16, 16)[0].tolist() == [True] * 6 + [False] * 10


def test_a_photograph_shrinks_without_noise() -> None:
    noise = RNG.integers(0, 256, (640, 640, 3)).astype(np.uint8)
    assert fit_picture(noise, 32, 32).std() < 10


def test_wrong_input() -> None:
    assert check_fit("pad") == "pad"
    with pytest.raises(ShapeError, match="wanted one of crop, pad, stretch"):
        check_fit("bend")
    with pytest.raises(ShapeError, match="at least one pixel"):
        fit_labels(np.zeros((0, 4), int), 4, 4)
