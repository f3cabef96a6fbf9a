"""Turns what a user gives as a condition into the condition's tokens or into what its encoder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError, ShapeError
from trt_vqgan.runtime.buffers import host_array
from trt_vqgan.spec import ConditionSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def class_tokens(class_id: int | str | Sequence[int | str], spec: ConditionSpec, names: Sequence[str]) -> Int64Array:
    """Return class ids as condition tokens, int64 (B, 1).

    Parameters
    ----------
    class_id : an id, a name, or a sequence of either.
    names : the bundle's class names, in the order of their ids; may be empty.

    Raises
    ------
    ConditionError : an unknown name or an id outside 0 … num_classes - 1.
    """
    given: list[Any] = [class_id] if isinstance(class_id, str) or np.ndim(class_id) == 0 else list(class_id)  # type: ignore[arg-type]
    if not given:
        raise ConditionError("class_id: found an empty sequence, wanted at least one class")
    return np.array([[_class_index(item, spec.num_classes, names)] for item in given], dtype=np.int64)


def _class_index(item: int | str, num_classes: int, names: Sequence[str]) -> int:
    if isinstance(item, str):
        if item in names:
            return list(names).index(item)
        if not item.lstrip("-").isdigit():
            known = f"wanted one of {', '.join(names)}" if names else "and this bundle has no class names: give an id"
            raise ConditionError(f"class {item!r} is unknown, {known}")
        item = int(item)
    if isinstance(item, (bool, np.bool_)) or not isinstance(item, (int, np.integer)):
        raise ConditionError(f"class_id: found {item!r}, wanted an id or a name")
    if not 0 <= item < num_classes:
        raise ConditionError(f"class {item} is out of range, wanted 0 to {num_classes - 1}")
    return int(item)


def depth_map(depth: npt.ArrayLike) -> FloatArray:
    """Return a depth map as its encoder reads it: float32 (B, 1, H, W) in [-1, 1].

    (H, W) and (B, H, W) of any scale are scaled by each picture's minimum and maximum, as published; (B, 1, H, W) in
    [-1, 1] is taken as it is.
    """
    array = _finite(depth, "depth")
    if array.ndim == 4:
        if array.shape[1] != 1:
            raise ShapeError(f"depth: found shape {array.shape}, wanted (B, 1, H, W)")
        if array.size and (array.min() < -1.0 or array.max() > 1.0):
            raise ShapeError(
                f"depth (B, 1, H, W): found values from {array.min():g} to {array.max():g}, wanted -1 to 1; "
                "give (B, H, W) to have it scaled"
            )
        return array
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ShapeError(f"depth: found shape {array.shape}, wanted (H, W), (B, H, W) or (B, 1, H, W)")
    low = array.min(axis=(1, 2), keepdims=True)
    span = np.maximum(array.max(axis=(1, 2), keepdims=True) - low, np.float32(1e-8))
    scaled: FloatArray = ((array - low) / span * np.float32(2) - np.float32(1))[:, None]
    return scaled


def segmentation_map(segmentation: npt.ArrayLike, num_labels: int) -> FloatArray:
    """Return a label map as its encoder reads it: one-hot float32 (B, num_labels, H, W).

    Takes integer label ids (H, W) or (B, H, W), or a one-hot map (B, num_labels, H, W).

    Raises
    ------
    ConditionError : a label outside 0 … num_labels - 1.
    """
    array = np.asarray(segmentation)
    if array.ndim == 4:
        if array.shape[1] != num_labels:
            raise ShapeError(f"segmentation: found shape {array.shape}, wanted (B, {num_labels}, H, W)")
        return _finite(array, "segmentation")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(
            f"segmentation: found {array.dtype} {array.shape}, wanted integer label ids (H, W) or (B, H, W), "
            f"or one-hot (B, {num_labels}, H, W)"
        )
    if array.size and (array.min() < 0 or array.max() >= num_labels):
        wrong = int(array.max() if array.max() >= num_labels else array.min())
        raise ConditionError(f"segmentation: found label {wrong}, wanted 0 to {num_labels - 1}")
    one_hot = (
        array[:, None] == np.arange(num_labels, dtype=array.dtype if num_labels < 128 else np.int64)[:, None, None]
    )
    result: FloatArray = one_hot.astype(np.float32)
    return result


def shifted_labels(segmentation: npt.ArrayLike) -> Int64Array:
    """Return label ids as the published COCO-Stuff models read them, int64: (id + 1) modulo 256.

    There a pixel file says 0 to 181 and 255 for no label, and the model knows 0 for no label and 1 to 182.

    Source: the published ``SegmentationBase`` with ``shift_segmentation``, and ``CocoBase``: 1 is added to uint8.

    Raises
    ------
    ShapeError : no integer label ids (H, W) or (B, H, W).
    ConditionError : a label outside 0 … 255.
    """
    array = np.asarray(segmentation)
    if array.ndim not in (2, 3) or array.dtype.kind not in "iu":
        raise ShapeError(
            f"shift_labels: found segmentation {array.dtype} {array.shape}, wanted integer label ids (H, W) or "
            "(B, H, W)"
        )
    if array.size and (array.min() < 0 or array.max() > 255):
        wrong = int(array.max() if array.max() > 255 else array.min())
        raise ConditionError(f"shift_labels: found label {wrong}, wanted 0 to 255 as in 8-bit label maps")
    shifted: Int64Array = (array.astype(np.int64) + 1) % 256
    return shifted


def coordinate_tokens(coordinates: npt.ArrayLike, spec: ConditionSpec, vocab_size: int) -> Int64Array:
    """Return coordinate maps as tokens, int64 (B, h, w): the mean of each cell times the number of levels, rounded.

    Source: the published CoordStage (area downsampling, then rounding half to even). A mean of exactly 1 gives the
    level count itself, which is clamped to ``vocab_size - 1`` (the published code fails there).

    Parameters
    ----------
    coordinates : float (B, 1, H, W) in [0, 1], H and W multiples of the condition's factor.
    """
    array = _finite(coordinates, "coordinates")
    factor = spec.coordinate_factor
    if array.ndim != 4 or array.shape[1] != 1 or array.shape[2] % factor or array.shape[3] % factor:
        raise ShapeError(f"coordinates: found shape {array.shape}, wanted (B, 1, H, W) in multiples of {factor}")
    if array.size and (array.min() < 0.0 or array.max() > 1.0):
        raise ShapeError(f"coordinates: found values from {array.min():g} to {array.max():g}, wanted 0 to 1")
    batch, _, height, width = array.shape
    cells = array.reshape(batch, height // factor, factor, width // factor, factor)
    # summed in the order of the area kernel (row by row inside a cell), so that halves round as published
    means = cells.sum(axis=(2, 4), dtype=np.float32) / np.float32(factor * factor)
    tokens = np.rint(np.clip(means, 0, 1) * np.float32(spec.coordinate_levels)).astype(np.int64)
    clamped: Int64Array = np.minimum(tokens, vocab_size - 1)
    return clamped


def position_coordinates(height: int, width: int) -> FloatArray:
    """Return the published coordinates of a whole picture, float32 (1, 1, height, width): raster position / pixels."""
    return (
        (np.arange(height * width, dtype=np.float64) / (height * width)).astype(np.float32).reshape(1, 1, height, width)
    )


def resize_nearest(array: FloatArray, side: int) -> FloatArray:
    """Return (B, C, side, side) by the published nearest rule: source index = floor(i x old / new)."""
    height, width = array.shape[2:]
    rows = np.arange(side) * height // side
    columns = np.arange(side) * width // side
    return np.ascontiguousarray(array[:, :, rows][:, :, :, columns])


def raw_tokens(codes: npt.ArrayLike, vocab_size: int) -> Int64Array:
    """Return condition codes (B, L), or (B, h, w) in raster order, as int64 (B, L).

    Raises
    ------
    ShapeError : another shape, or no integers.
    ConditionError : a code outside 0 … vocab_size - 1.
    """
    array = host_array(codes, "condition_codes")
    if array.ndim == 3:
        array = array.reshape(len(array), -1)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or not array.shape[0]:
        raise ShapeError(f"condition_codes: found {array.dtype} {array.shape}, wanted integers (B, L) or (B, h, w)")
    if array.size and (array.min() < 0 or array.max() >= vocab_size):
        raise ConditionError(
            f"condition_codes: found codes from {array.min()} to {array.max()}, wanted 0 to {vocab_size - 1}"
        )
    return array.astype(np.int64, copy=False)


def _finite(value: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"{name}: found {array.dtype}, wanted numbers")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ShapeError(f"{name}: found NaN or infinity, wanted finite numbers; fill missing values first")
    return floats
