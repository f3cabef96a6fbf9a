"""Decodes grids of any size in bounded memory: tiles that overlap and are faded into each other.

What is global in the decoder, the statistics of GroupNorm and the attention, would be another in each tile: skies and
meadows alone get another tint than side by side. So each tile is decoded inside a frame that shows the rest of the
picture thinned out. docs/large-pictures.md measures what difference is left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.autoencoder import Autoencoder, to_uint8
from trt_vqgan.runtime.buffers import result_array
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]

TileCallback = Callable[[int, int], None]
"""Called with (tiles finished, tiles of all pictures) after each tile; may raise to stop."""


def default_tile(spec: AutoencoderSpec) -> int:
    """Return the side of a tile, codes: one and a half times that of the training grid."""
    return max(2, spec.latent_size * 3 // 2)


def default_overlap(spec: AutoencoderSpec) -> int:
    """Return the codes that neighbouring tiles share: half the training grid."""
    return max(1, spec.latent_size // 2)


def default_frame(spec: AutoencoderSpec) -> int:
    """Return the side of the frame around a tile, codes: three times that of the training grid."""
    return 3 * spec.latent_size


def decode_tiled(
    autoencoder: Autoencoder,
    codes: Int64Array,
    *,
    tile: int,
    overlap: int,
    frame: int | None = None,
    on_tile: TileCallback | None = None,
    out: object = None,
) -> ImageArray:
    """Return pictures uint8 (B, H, W, C) of codes int64 (B, h, w), decoded tile by tile.

    Where two tiles overlap, their float pixels are cross-faded linearly; pixels are truncated to uint8 once, after
    that. A grid of at most one tile, or one frame, gives the bits of `Autoencoder.decode`.

    Parameters
    ----------
    tile : largest side of a tile, codes. Tiles of a picture are as many as needed and equally large, to one code.
    overlap : codes that neighbours share, from 0 (hard seams) to half of ``tile``.
    frame : side of the grid that is decoded for each tile, codes; beyond the tile it shows the picture thinned out. By
        default `default_frame`; 0 decodes each tile alone.
    on_tile : told of each finished tile.
    out : where the pictures go, an array of the caller's; None makes one.

    Raises
    ------
    ShapeError : wrong codes, a tile, overlap or frame out of range, or an ``out`` that isn't uint8 (B, H, W, C).
    """
    autoencoder.check_codes(codes)
    side = frame if frame is not None else max(tile, default_frame(autoencoder.spec))
    check_tiles(tile=tile, overlap=overlap, frame=side)
    spec = autoencoder.spec
    factor = spec.factor
    height, width = codes.shape[1:]
    if max(height, width) <= side:
        tile = side  # the frame shows all of it already
    rows, columns = spans(height, tile=tile, overlap=overlap), spans(width, tile=tile, overlap=overlap)
    shape = (len(codes), height * factor, width * factor, spec.out_channels)
    images = result_array(out, shape, np.uint8, name="decode", source=codes)
    numbers = itertools.count(1)
    total = len(codes) * len(rows) * len(columns)

    def band(grid: Int64Array, top: int, bottom: int) -> FloatArray:
        """Return pixels float32 (C, rows, W) of the tiles from row ``top`` to ``bottom``."""
        pixels = np.empty((spec.out_channels, (bottom - top) * factor, width * factor), dtype=np.float32)
        done = 0
        for start, stop in columns:
            shown, above, before = framed(grid, (top, bottom), (start, stop), frame=side)
            part = autoencoder.decode_pixels(shown)[:, above * factor :, before * factor :]
            part = part[:, : pixels.shape[1], : (stop - start) * factor]
            fade = (done - start) * factor
            left = start * factor
            _fade_in(pixels[:, :, left : left + fade], part[:, :, :fade], axis=2)
            pixels[:, :, left + fade : stop * factor] = part[:, :, fade:]
            done = stop
            if on_tile is not None:
                on_tile(next(numbers), total)
        return pixels

    for image, grid in zip(images, codes, strict=True):
        tail = np.empty((spec.out_channels, 0, width * factor), dtype=np.float32)
        for k, (start, stop) in enumerate(rows):
            pixels = band(grid, start, stop)
            _fade_in(tail, pixels[:, : tail.shape[1]], axis=1)
            pixels[:, : tail.shape[1]] = tail
            # rows that the next band overlaps wait for it, still in float
            end = (rows[k + 1][0] if k + 1 < len(rows) else stop) * factor
            image[start * factor : end] = to_uint8(pixels[:, : end - start * factor])
            tail = pixels[:, end - start * factor :].copy()
    return images


def check_tiles(*, tile: int, overlap: int, frame: int) -> None:
    """Raise ShapeError unless tile >= 1, overlap is from 0 to half of it, and frame 0 or at least as large."""
    if tile < 1:
        raise ShapeError(f"tile: found {tile} codes, wanted at least 1")
    if not 0 <= 2 * overlap <= tile:
        raise ShapeError(f"overlap: found {overlap} codes for tiles of {tile}, wanted 0 to {tile // 2}")
    if frame != 0 and frame < tile:
        raise ShapeError(f"frame: found {frame} codes for tiles of {tile}, wanted at least as many, or 0 for none")


def spans(length: int, *, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the fewest tiles along a side of ``length`` codes.

    None is longer than ``tile``, neighbours share exactly ``overlap`` codes, and lengths differ by at most one: equal
    tiles have about equal statistics, and a narrow last one would have poor ones.
    """
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    shared = length - overlap  # steps from one start to the next, and what follows the last overlap
    starts = [shared * k // count for k in range(count + 1)]
    return [(starts[k], starts[k + 1] + overlap) for k in range(count)]


def framed(
    grid: Int64Array, rows: tuple[int, int], columns: tuple[int, int], *, frame: int
) -> tuple[Int64Array, int, int]:
    """Return the codes to decode for one tile, and the row and column at which the tile begins among them.

    The whole grid, thinned out evenly to at most frame x frame codes, with the tile's own codes laid over it about
    where they belong. A grid that needs no thinning comes back as it is, and without a frame (0) the tile alone.
    """
    if not frame:
        return grid[slice(*rows), slice(*columns)], 0, 0
    height, width = grid.shape
    shown = grid[_thinned(height, min(height, frame))][:, _thinned(width, min(width, frame))]
    top = _place(rows, length=height, room=shown.shape[0])
    left = _place(columns, length=width, room=shown.shape[1])
    shown[top : top + rows[1] - rows[0], left : left + columns[1] - columns[0]] = grid[slice(*rows), slice(*columns)]
    return shown, top, left


def _thinned(length: int, count: int) -> Int64Array:
    """Return ``count`` of the numbers below ``length``, in the middles of equal parts."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)


def _place(span: tuple[int, int], *, length: int, room: int) -> int:
    """Return where a tile begins in a frame of ``room`` codes, in proportion to where it begins in the picture."""
    size = span[1] - span[0]
    return span[0] * (room - size) // (length - size) if length > size else 0


def _fade_in(below: FloatArray, above: FloatArray, *, axis: int) -> None:
    """Fade ``below`` into ``above`` along an axis, in place: weights of ``above`` rise linearly from 0 to 1."""
    length = below.shape[axis]
    shape = [1] * below.ndim
    shape[axis] = length
    weights = ((np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(max(1, length))).reshape(shape)
    below += weights * (above - below)
