"""Pictures in files: any image file to uint8 (H, W, 3), and PNG files that are whole or not there."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.image_files import DAMAGED, FileSource, damaged, file_source, opened_image

ImageArray = npt.NDArray[np.uint8]

MAX_PIXELS = 1 << 26
"""Largest picture that is read or written: 67 million pixels, 8192 x 8192."""

ALPHA_BACKGROUND = (255, 255, 255)


def read_image(path: FileSource, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Return the picture in ``path`` as uint8 (H, W, 3), RGB, upright as its EXIF orientation says.

    Transparent pixels are laid over white, 16-bit greys are scaled to 8 bits, and of an animation the first frame is
    taken.

    Raises
    ------
    ImageError : no such file, no image, a truncated one, or one of more than ``max_pixels`` pixels (looked at before
        anything is decoded).
    """
    source = file_source(path)
    with opened_image(source, max_pixels=max_pixels) as image:
        try:
            return _to_rgb(ImageOps.exif_transpose(image))
        except DAMAGED as error:
            raise damaged(source, error) from None


def _to_rgb(image: Image.Image) -> ImageArray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image).astype(np.float64)
        # "I" and "I;16" come from 16-bit PNG and TIFF files; "F" has no fixed scale, 0 to 1 or 0 to 255.
        top = 65535.0 if image.mode != "F" else (1.0 if grey.size and grey.max() <= 1.0 else 255.0)
        levels = np.clip(np.rint(np.nan_to_num(grey) * (255.0 / top)), 0, 255).astype(np.uint8)
        return np.repeat(levels[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        base = Image.new("RGBA", rgba.size, (*ALPHA_BACKGROUND, 255))
        image = Image.alpha_composite(base, rgba)
    return np.asarray(image.convert("RGB"), dtype=np.uint8).copy()


def check_image(image: npt.NDArray[np.generic], what: str = "image") -> None:
    """Raise ShapeError unless ``image`` is uint8 (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError(f"{what}: found {image.dtype} {image.shape}, wanted uint8 (H, W, 3)")


def encode_png(image: ImageArray, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a PNG file of ``image`` uint8 (H, W, 3), with one tEXt chunk an entry of ``metadata`` (Latin-1)."""
    check_image(image)
    chunks = PngImagePlugin.PngInfo()
    for key, text in (metadata or {}).items():
        chunks.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], image: ImageArray, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``image`` uint8 (H, W, 3) to ``path``, whole or not at all.

    Raises
    ------
    OSError : the file can't be written.
    """
    write_bytes(path, encode_png(image, metadata))


def pad_to_multiple(image: ImageArray, factor: int) -> ImageArray:
    """Return ``image`` (H, W, 3) with its last row and column repeated until both sides are multiples of ``factor``.

    ``padded[:H, :W]`` is the picture again.
    """
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
