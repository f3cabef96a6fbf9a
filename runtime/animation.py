"""A picture's making as an animation: GIF or WebP."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from trt_vqgan.atomic_file import replacing
from trt_vqgan.errors import ImageError, ShapeError

ImageArray = npt.NDArray[np.uint8]

FRAME_MS = 60
LAST_FRAME_MS = 1500
MAX_BYTES = 1 << 30
"""Frames are held until the file is written; together they may have this many bytes."""

FORMATS = {".gif": "GIF", ".webp": "WEBP"}


class Animation:
    """Frames of one animation, in order. `writing` makes one."""

    def __init__(self) -> None:
        self._frames: list[Image.Image] = []

    def add(self, frame: ImageArray) -> None:
        """Append ``frame`` uint8 (H, W, 3); all have the same size.

        Raises
        ------
        ShapeError : another size than the frames before.
        """
        image = Image.fromarray(np.ascontiguousarray(frame))
        if self._frames and image.size != self._frames[0].size:
            raise ShapeError(f"frame: found {image.size} pixels, the frames before have {self._frames[0].size}")
        self._frames.append(image)

    def __len__(self) -> int:
        return len(self._frames)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, frames: int, height: int, width: int) -> Iterator[Animation]:
    """Yield an `Animation`, which is written to ``path`` when the block ends well; nothing stays otherwise.

    The file is opened at once, so that a path that can't be written is told before any work.

    Parameters
    ----------
    frames : how many there will be at most, of ``height`` x ``width`` pixels.

    Raises
    ------
    ImageError : another ending than .gif or .webp, no WebP in this Pillow, or more bytes of frames than are held.
    OSError : the file can't be written.
    """
    path = Path(path)
    kind = animation_format(path)
    size_bytes = 3 * frames * height * width
    if size_bytes > MAX_BYTES:
        raise ImageError(
            f"{path}: {frames} frames of {width} x {height} pixels have {size_bytes / 1e9:.1f} GB, at most "
            f"{MAX_BYTES / 1e9:.1f} GB are held; keep fewer with a larger --preview"
        )
    with replacing(path) as file:
        animation = Animation()
        yield animation
        first, *rest = animation._frames
        durations = [FRAME_MS] * len(rest) + [LAST_FRAME_MS]
        settings = {"lossless": True} if kind == "WEBP" else {"optimize": False}
        first.save(file, format=kind, save_all=True, append_images=rest, duration=durations, loop=0, **settings)


def animation_format(path: Path) -> str:
    """Return Pillow's name for the format of ``path``.

    Raises
    ------
    ImageError : another ending than .gif or .webp, or no WebP in this Pillow.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: an animation ends in .gif or .webp, found {path.suffix or 'no ending'!r}")
    if kind == "WEBP" and not features.check("webp"):
        raise ImageError(f"{path}: this Pillow has no WebP; write a .gif")
    return kind
