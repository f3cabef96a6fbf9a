"""Pictures made from parts of other pictures: which codes are kept, and pasting back what was.

A code is kept only if all its pixels are: a mask's edge inside a code frees the whole code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.fitting import Fit, fit_mask
from trt_vqgan.runtime.philox import philox4x32

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]

SEAM_PIXELS = 8
"""Width of the blend between pasted pixels and the decoder's."""

_RESAMPLE_STREAM = 1
"""Third counter word of the random numbers that choose codes to draw again; those that draw codes have 0 there."""


def region_mask(region: str, height: int, width: int) -> BoolArray:
    """Return the pixels that ``region`` names, bool (height, width).

    Parameters
    ----------
    region : "top", "bottom", "left", "right" (half of the picture, the middle row or column left out) or "X,Y,W,H" in
        pixels.

    Raises
    ------
    ShapeError : another text, or a rectangle that isn't inside the picture.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    halves = {
        "top": np.s_[: height // 2, :],
        "bottom": np.s_[-(height // 2) or height :, :],
        "left": np.s_[:, : width // 2],
        "right": np.s_[:, -(width // 2) or width :],
    }
    if region in halves:
        mask[halves[region]] = True
        return mask
    x, y, across, down = parse_rectangle(region)
    if not (across > 0 and down > 0 and 0 <= x <= width - across and 0 <= y <= height - down):
        raise ShapeError(f"keep {region}: is not inside the picture of {width} x {height} pixels")
    mask[y : y + down, x : x + across] = True
    return mask


def is_region(text: str) -> bool:
    """Return whether ``text`` has the form of a region of `region_mask`, rather than of a file name."""
    parts = text.split(",")
    return text in ("top", "bottom", "left", "right") or (len(parts) == 4 and all(map(_is_number, parts)))


def parse_rectangle(text: str) -> tuple[int, int, int, int]:
    """Return X, Y, W and H of "X,Y,W,H"; anything else is a ShapeError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(map(_is_number, parts)):
        raise ShapeError(f"keep {text!r}: wanted top, bottom, left, right or X,Y,W,H in pixels")
    x, y, width, height = map(int, parts)
    return x, y, width, height


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def kept_grid(
    keep: npt.ArrayLike, *, picture: tuple[int, int], size: tuple[int, int], factor: int, fit: Fit
) -> BoolArray:
    """Return which codes are kept, bool (h, w).

    Parameters
    ----------
    keep : bool (H, W) over the pixels of the picture as it was given, or bool (h, w) over the codes.
    picture : height and width of the picture as it was given.
    size : height and width that it is fitted to; ``fit`` says how.

    Raises
    ------
    ShapeError : another shape, or not bool.
    """
    mask = np.asarray(keep)
    grid = size[0] // factor, size[1] // factor
    if mask.dtype != np.bool_ or mask.shape not in (picture, grid):
        raise ShapeError(
            f"keep: found {mask.dtype} {mask.shape}, wanted bool {picture} over the pixels of init or {grid} over its "
            "codes"
        )
    if mask.shape == grid and mask.shape != picture:
        return mask
    fitted = fit_mask(mask, *size, fit=fit)
    whole: BoolArray = np.all(fitted.reshape(grid[0], factor, grid[1], factor), axis=(1, 3))
    return whole


def padded_grid(*, picture: tuple[int, int], size: tuple[int, int], factor: int, fit: Fit) -> BoolArray:
    """Return which codes show the picture itself and nothing that fitting added, bool (h, w)."""
    return kept_grid(np.ones(picture, dtype=np.bool_), picture=picture, size=size, factor=factor, fit=fit)


def resampled(share: float, free_to_choose: BoolArray, *, seed: int, picture: int) -> BoolArray:
    """Return a random choice of codes, bool (h, w): ``share`` of ``free_to_choose``, rounded, at least one.

    It depends on nothing but the arguments.
    """
    rows, columns = np.nonzero(free_to_choose)
    chosen = np.zeros(free_to_choose.shape, dtype=np.bool_)
    if not len(rows):
        return chosen
    counter = np.zeros((4, len(rows)), dtype=np.uint64)
    counter[0] = np.arange(len(rows))
    counter[1] = picture
    counter[2] = _RESAMPLE_STREAM
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    order = np.lexsort((words[1], words[0]))[: max(1, round(share * len(rows)))]
    chosen[rows[order], columns[order]] = True
    return chosen


def kept_codes(codes: Int64Array, keep: BoolArray) -> Int64Array:
    """Return ``codes`` int64 (h, w) with FREE where ``keep`` is false."""
    return np.where(keep, codes, FREE)


def paste(made: ImageArray, original: ImageArray, keep: BoolArray, *, seam: int = SEAM_PIXELS) -> ImageArray:
    """Return ``made`` with the pixels of kept codes taken from ``original``.

    Towards codes that were drawn the two are blended over ``seam`` pixels, all of them inside kept codes; where no
    drawn code is near, a pixel is the original's.

    Parameters
    ----------
    made, original : uint8 (H, W, C).
    keep : bool (h, w).
    """
    share = paste_share(keep, made.shape[0] // keep.shape[0], seam=seam)[:, :, None]
    blended = np.rint(original * share + made * (1 - share))
    return blended.astype(np.uint8)


def paste_share(keep: BoolArray, factor: int, *, seam: int = SEAM_PIXELS) -> npt.NDArray[np.float32]:
    """Return how much of each pixel is the original's, float32 (H, W) from 0 to 1."""
    inside = keep.repeat(factor, axis=0).repeat(factor, axis=1)
    depth = np.zeros(inside.shape, dtype=np.float32)
    layer: BoolArray = inside
    for _ in range(seam + 1):
        depth += layer
        layer = _eroded(layer)
    share: npt.NDArray[np.float32] = depth / np.float32(seam + 1)
    return share


def _eroded(mask: BoolArray) -> BoolArray:
    """Return ``mask`` without the pixels that touch a false one; beyond the picture nothing is false."""
    wide = np.pad(mask, 1, constant_values=True)
    rows = wide[:-2] & wide[1:-1] & wide[2:]
    eroded: BoolArray = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return eroded
