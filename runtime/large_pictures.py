"""Pictures larger than the training size: what is asked for, and each window's part of the condition."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError, SpecError
from trt_vqgan.runtime.conditions import raw_tokens
from trt_vqgan.runtime.layouts import Layout, layout_tokens, window_crop
from trt_vqgan.runtime.window_generator import Plan, WindowCondition
from trt_vqgan.spec import ConditionSpec, LayoutForm, ModelSpec

Int64Array = npt.NDArray[np.int64]

PLANS = ("exact", "plain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """How a large picture is drawn.

    Attributes
    ----------
    plan : "exact" shares work between windows, "plain" computes each by itself; the codes are the same.
    shift : codes between two windows; above 1 a faster approximation.
    memory_bytes : bound on the caches alive at once; None for none.
    condition_shape : height and width in codes of a condition that is a grid.
    layouts : boxes of each picture, of a scene model.
    layout_form : what that model's tokens are, as `layouts.layout_tokens` takes it.
    """

    plan: Plan = "exact"
    shift: int = 1
    memory_bytes: int | None = None
    condition_shape: tuple[int, int] | None = None
    layouts: tuple[Layout, ...] = ()
    layout_form: LayoutForm | None = None


def picture_size(size: object, spec: ModelSpec) -> tuple[int, int]:
    """Return height and width in pixels of ``size`` = (width, height); the training size for None.

    Raises
    ------
    ShapeError : no two whole numbers, smaller than the training size, or no multiples of the factor.
    """
    side, factor = spec.autoencoder.resolution, spec.autoencoder.factor
    if size is None:
        return side, side
    if not (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in size)
    ):
        raise ShapeError(f"size: found {size!r}, wanted (width, height) in pixels")
    width, height = int(size[0]), int(size[1])
    if width < side or height < side:
        raise ShapeError(f"size: found {width}x{height} pixels, wanted at least {side}x{side}, the training size")
    if width % factor or height % factor:
        near = "x".join(str(max(side, round(value / factor) * factor)) for value in (width, height))
        raise ShapeError(f"size: found {width}x{height} pixels, wanted multiples of {factor}, such as {near}")
    return height, width


def condition_grid_shape(condition: ConditionSpec, spec: ModelSpec, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width in codes of the condition of a picture of ``size`` = (height, width) pixels.

    Raises
    ------
    SpecError : the condition's grid can't be cut into windows.
    """
    if condition.downsample_size:
        raise SpecError(
            f"this model's condition is always resized to {condition.downsample_size}x{condition.downsample_size} "
            "pixels; a larger picture has no condition for its windows: leave size out"
        )
    cells = window_cells(condition)
    side = spec.autoencoder.resolution
    height, width = (value * cells for value in size)
    if height % side or width % side:
        raise ShapeError(
            f"size: {size[1]}x{size[0]} pixels have no whole condition codes, wanted multiples of {side // cells}"
        )
    return height // side, width // side


def window_cells(condition: ConditionSpec) -> int:
    """Return the side of a window in condition codes."""
    return math.isqrt(condition.num_tokens)


def condition_grid(codes: npt.ArrayLike, shape: tuple[int, int], vocab_size: int) -> Int64Array:
    """Return condition codes of whole pictures, (B, h, w) or (B, h·w), as int64 (B, h·w).

    Raises
    ------
    ShapeError, ConditionError : another shape, no integers, or codes outside the vocabulary.
    """
    array = np.asarray(codes)
    height, width = shape
    if array.dtype.kind not in "iu" or not (array.shape[1:] == shape or array.shape[1:] == (height * width,)):
        raise ShapeError(
            f"condition_codes: found {array.dtype} {array.shape}, wanted integers (B, {height}, {width}) for a picture "
            "of this size"
        )
    return raw_tokens(array, vocab_size)


def window_condition(
    spec: ModelSpec, windows: Windows, conditions: Int64Array, layouts: Sequence[Layout], grid: tuple[int, int]
) -> WindowCondition:
    """Return what gives each window's condition tokens, int64 (n, L).

    Parameters
    ----------
    conditions : int64 (n, L): a constant prefix, or the condition codes of the whole pictures in raster order.
    layouts : boxes of the same pictures, of a scene model; each window has its own tokens.
    grid : height and width of the pictures, codes.
    """
    condition, transformer = spec.condition, spec.transformer
    assert condition is not None
    assert transformer is not None
    side = spec.autoencoder.latent_size
    if condition.kind == "boxes":

        def of_boxes(top: int, left: int) -> Int64Array:
            crop = window_crop(top, left, side=side, height=grid[0], width=grid[1])
            model = {"num_tokens": condition.num_tokens, "vocab_size": transformer.vocab_size}
            tokens = [layout_tokens(layout, form=windows.layout_form, crop=crop, **model) for layout in layouts]
            return np.stack(tokens)

        return of_boxes
    if windows.condition_shape is None:
        return lambda top, left: conditions
    cells = window_cells(condition)
    whole = conditions.reshape(len(conditions), *windows.condition_shape)

    def of_grid(top: int, left: int) -> Int64Array:
        # a condition coarser than the picture's codes: the window's first cell is the one its first code lies in
        i, j = top * cells // side, left * cells // side
        return whole[:, i : i + cells, j : j + cells].reshape(len(whole), -1)

    return of_grid
