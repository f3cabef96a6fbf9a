"""Conditions in files: depth maps, label maps, layouts and masks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError, ImageError
from trt_vqgan.runtime.conditions import shifted_labels
from trt_vqgan.runtime.image_files import FileSource, InMemoryFile, check_pixels, file_source, opened_image
from trt_vqgan.runtime.images import MAX_PIXELS
from trt_vqgan.runtime.layouts import Layout, read_layouts

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MAX_LAYOUT_BYTES = 4 << 20
MAX_DEPTH = 1e20
"""Four bytes of an ordinary picture, read as a float, are larger than this, or no number at all, where it is opaque."""

MASK_THRESHOLD = 128
COCO_UNLABELLED = 255


def read_depth(path: FileSource, *, max_pixels: int = MAX_PIXELS) -> FloatArray:
    """Return the depth map in ``path``, float32 (H, W) of any scale.

    Takes grey pictures of 8, 16 or 32 bits (colour ones whose channels are equal, too), ``.npy`` with numbers (H, W),
    and the published form, whose four channels RGBA are the bytes of a little-endian float32.

    Raises
    ------
    ImageError : no such file, one that can't be read, or too large.
    ConditionError : a picture that holds no depth.
    """
    path = file_source(path)
    if isinstance(path, Path) and path.suffix.lower() == ".npy":
        return _checked_depth(path, _read_npy(path, "fiub", max_pixels))
    with opened_image(path, max_pixels=max_pixels) as image:
        if image.mode == "RGBA":
            pixels = np.ascontiguousarray(np.asarray(image))
            return _checked_depth(path, pixels.view("<f4")[:, :, 0], rgba=True)
        if image.mode in ("L", "F", "I") or image.mode.startswith("I;16"):
            return _checked_depth(path, np.asarray(image))
        if image.mode == "LA":
            return _checked_depth(path, np.asarray(image)[:, :, 0])
        colours = np.asarray(image.convert("RGB"))
    if (colours != colours[:, :, :1]).any():
        raise ConditionError(
            f"{path}: is a coloured picture ({image.mode}), wanted depth in grey; colours of a depth plot can't be "
            "turned back"
        )
    return _checked_depth(path, colours[:, :, 0])


def read_segmentation(
    path: FileSource, *, num_labels: int | None = None, shift_labels: bool = False, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.int64]:
    """Return the label ids in ``path``, int64 (H, W).

    Takes grey pictures of 8 or 16 bits and palette pictures, whose pixels are the ids, and ``.npy`` with integers
    (H, W).

    Parameters
    ----------
    num_labels : labels that the model knows, from 0 on; None checks nothing.
    shift_labels : whether ids are read as `conditions.shifted_labels`.

    Raises
    ------
    ImageError : no such file, one that can't be read, or too large.
    ConditionError : a picture that holds no label ids, or more labels than the model knows.
    """
    path = file_source(path)
    if isinstance(path, Path) and path.suffix.lower() == ".npy":
        labels = _read_npy(path, "iub", max_pixels)
    else:
        with opened_image(path, max_pixels=max_pixels) as image:
            if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
                raise ConditionError(
                    f"{path}: is a picture of mode {image.mode}, wanted label ids in a grey or palette PNG; colours "
                    "don't say which label they stand for"
                )
            labels = np.asarray(image)
    found = labels.astype(np.int64)
    if shift_labels:
        try:
            found = shifted_labels(found)
        except ConditionError as error:
            raise ConditionError(f"{path}: {error}") from None
    if num_labels is not None and (found.min() < 0 or found.max() >= num_labels):
        wrong = int(found.max() if found.max() >= num_labels else found.min())
        said = f"found label {wrong}"
        if shift_labels:
            said = f"found label {(wrong - 1) % 256}, which --shift-labels makes {wrong}"
        hint = ""
        if wrong == COCO_UNLABELLED and not shift_labels:
            hint = "; 255 often means no label: for models of COCO-Stuff give --shift-labels, which makes it 0"
        raise ConditionError(f"{path}: {said}, this model knows 0 to {num_labels - 1}{hint}")
    return found


def read_layout(path: str | os.PathLike[str], classes: Sequence[str] = ()) -> list[Layout]:
    """Return the layouts in the JSON file ``path``, in the form that `read_layouts` says.

    Raises
    ------
    ConditionError : no such file, no JSON, or no layout.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_LAYOUT_BYTES:
            raise ConditionError(f"{path}: has more than {MAX_LAYOUT_BYTES} bytes, wanted a layout in JSON")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConditionError(f"{path}: is no JSON ({error})") from None
    except OSError as error:
        raise ConditionError(f"{path}: can't be read ({error.strerror or error}), wanted a layout in JSON") from None
    try:
        return read_layouts(data, classes)
    except ConditionError as error:
        raise ConditionError(f"{path}: {error}") from None


def read_mask(path: FileSource, *, max_pixels: int = MAX_PIXELS) -> BoolArray:
    """Return the mask in ``path``, bool (H, W): true where it is white (128 or more of 255, or opaque).

    Raises
    ------
    ImageError : no such file, one that can't be read, or too large.
    """
    path = file_source(path)
    with opened_image(path, max_pixels=max_pixels) as image:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise ImageError(f"{path}: is a picture of mode {image.mode}, wanted a mask in 8 bits or black and white")
        if "A" in image.getbands():
            alpha = np.asarray(image.getchannel("A"))
            if (alpha != 255).any():
                return alpha >= MASK_THRESHOLD
        return np.asarray(image.convert("L")) >= MASK_THRESHOLD


def _checked_depth(path: Path | InMemoryFile, values: npt.NDArray[np.generic], *, rgba: bool = False) -> FloatArray:
    with np.errstate(over="ignore"):
        depth = values.astype(np.float32)
    if np.isfinite(depth).all() and np.abs(depth).max() <= MAX_DEPTH:
        return depth
    if rgba:
        raise ConditionError(
            f"{path}: its four channels, read as the bytes of a float, are no depth; it seems to be an ordinary "
            "picture; wanted a grey one, or depth stored as float32 in RGBA"
        )
    raise ConditionError(f"{path}: holds NaN, infinity or numbers beyond {MAX_DEPTH:g}; fill missing depth first")


def _read_npy(path: Path, kinds: str, max_pixels: int) -> npt.NDArray[np.generic]:
    wanted = "integers" if "f" not in kinds else "numbers"
    try:
        # mapped, so that a header that lies about the size costs nothing
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: can't be read as .npy ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != 2 or 0 in array.shape:
        shape = getattr(array, "shape", "")
        raise ConditionError(
            f"{path}: holds {getattr(array, 'dtype', 'several arrays')} {shape}, wanted {wanted} (H, W)"
        )
    check_pixels(path, array.shape[1], array.shape[0], max_pixels=max_pixels)
    return np.array(array)
