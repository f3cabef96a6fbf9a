"""Pictures, depth maps, label maps and masks of any size, fitted to the size that a model works at.

"crop" is the published rule: the shorter side is scaled to the wanted length and the middle is cut out. "pad" scales
the whole picture into the wanted size and repeats its edges outwards. "stretch" ignores the sides' ratio. What has the
wanted size already comes back bit for bit.

Notes
-----
Published (albumentations 0.4, which the reference pins): SmallestMaxSize (sides rounded half to even) then CenterCrop;
OpenCV's bilinear for depth and pictures, which takes two pixels along each axis however far it shrinks, and nearest for
labels. Depth follows that to the bit of a float. Pictures don't: Pillow's bilinear looks at every pixel when it
shrinks, where the published one leaves noise of a large photograph; enlarging, the two agree to a grey level.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_vqgan.errors import ShapeError

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """A picture is scaled to ``height`` x ``width``; row 0 of the result is row ``top`` of that, perhaps negative."""

    height: int
    width: int
    top: int
    left: int


def check_fit(fit: str) -> Fit:
    """Return ``fit`` if there is such a way.

    Raises
    ------
    ShapeError : there is none.
    """
    for known in FITS:
        if fit == known:
            return known
    raise ShapeError(f"fit: found {fit!r}, wanted one of {', '.join(FITS)}")


def fit_picture(image: ImageArray, height: int, width: int, *, fit: Fit = "crop") -> ImageArray:
    """Return a picture uint8 (H, W, C) as uint8 (height, width, C)."""
    plan = _plan(image.shape[:2], height, width, fit)
    if image.shape[:2] != (plan.height, plan.width):
        planes = [_resize(plane, plan, Image.Resampling.BILINEAR) for plane in np.moveaxis(image, 2, 0)]
        image = np.stack(planes, axis=2)
    return np.ascontiguousarray(_cut(image, plan, height, width))


def fit_scaled_depth(maps: FloatArray, height: int, width: int, *, fit: Fit = "crop") -> FloatArray:
    """Return depth maps float32 (B, 1, H, W) as (B, 1, height, width), interpolated between two pixels an axis."""
    plan = _plan(maps.shape[2:], height, width, fit)
    fitted = [_cut(_bilinear(depth, plan.height, plan.width), plan, height, width) for depth in maps[:, 0]]
    return np.stack(fitted)[:, None]


def fit_labels(
    labels: npt.NDArray[np.integer], height: int, width: int, *, fit: Fit = "crop"
) -> npt.NDArray[np.integer]:
    """Return label ids (H, W) or (B, H, W) as (..., height, width); every label is one that was there."""
    plan = _plan(labels.shape[-2:], height, width, fit)
    rows = np.arange(plan.height) * labels.shape[-2] // plan.height
    columns = np.arange(plan.width) * labels.shape[-1] // plan.width
    scaled = labels[..., rows, :][..., columns]
    fitted: npt.NDArray[np.integer] = _cut(scaled, plan, height, width, rows_axis=-2)
    return fitted


def fit_mask(mask: BoolArray, height: int, width: int, *, fit: Fit = "crop") -> BoolArray:
    """Return a mask bool (H, W) as (height, width): true only where all that a pixel is made of is true.

    What "pad" adds is false.
    """
    plan = _plan(mask.shape, height, width, fit)
    if mask.shape == (plan.height, plan.width):
        scaled = mask
    else:
        share = _resize(mask.astype(np.float32), plan, Image.Resampling.BOX)
        scaled = share > 1 - 1e-4  # float32 sums of a whole cell's weights miss 1 by some 1e-7 each
    framed = np.zeros((height, width), dtype=np.bool_)
    top, left = max(-plan.top, 0), max(-plan.left, 0)
    part = scaled[max(plan.top, 0) :, max(plan.left, 0) :][: height - top, : width - left]
    framed[top : top + part.shape[0], left : left + part.shape[1]] = part
    return framed


def _plan(shape: tuple[int, ...], height: int, width: int, fit: Fit) -> _Plan:
    old_height, old_width = shape
    if not old_height or not old_width:
        raise ShapeError(f"found a picture of {old_width} x {old_height} pixels, wanted at least one pixel")
    if fit == "stretch":
        return _Plan(height=height, width=width, top=0, left=0)
    down, across = height / old_height, width / old_width
    scale = max(down, across) if fit == "crop" else min(down, across)
    # the side that decides is met exactly; the other is rounded and, cropping, never falls short of it
    new_height = height if scale == down else max(1, round(old_height * scale))
    new_width = width if scale == across else max(1, round(old_width * scale))
    if fit == "crop":
        new_height, new_width = max(new_height, height), max(new_width, width)
        return _Plan(height=new_height, width=new_width, top=(new_height - height) // 2, left=(new_width - width) // 2)
    new_height, new_width = min(new_height, height), min(new_width, width)
    return _Plan(
        height=new_height, width=new_width, top=-((height - new_height) // 2), left=-((width - new_width) // 2)
    )


def _cut(array: npt.NDArray[Any], plan: _Plan, height: int, width: int, *, rows_axis: int = 0) -> npt.NDArray[Any]:
    """Return rows and columns of the plan, edges repeated outwards."""
    rows = np.clip(np.arange(height) + plan.top, 0, plan.height - 1)
    columns = np.clip(np.arange(width) + plan.left, 0, plan.width - 1)
    axis = rows_axis % array.ndim
    return array.take(rows, axis=axis).take(columns, axis=axis + 1)


def _resize(plane: npt.NDArray[Any], plan: _Plan, resampling: Image.Resampling) -> npt.NDArray[Any]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((plan.width, plan.height), resampling))


def _bilinear(plane: FloatArray, height: int, width: int) -> FloatArray:
    """Return (height, width) interpolated at pixel centres between two rows and two columns, edges held."""
    if plane.shape == (height, width):
        return plane
    top, down = _neighbours(plane.shape[0], height)
    left, across = _neighbours(plane.shape[1], width)
    bottom = np.minimum(top + 1, plane.shape[0] - 1)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    rows = plane[top] * (1 - down[:, None]) + plane[bottom] * down[:, None]
    result: FloatArray = rows[:, left] * (1 - across) + rows[:, right] * across
    return result


def _neighbours(old: int, new: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return the lower neighbour of each new place, and the share of the upper one."""
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    lower = np.floor(places).astype(np.int64)
    return lower, (places - lower).astype(np.float32)
