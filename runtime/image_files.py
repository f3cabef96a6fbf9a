"""Opens image files, on disk or in memory, that are not too large; whatever is wrong with one is one error."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from trt_vqgan.errors import ImageError, TooLargeError


@dataclasses.dataclass(frozen=True)
class InMemoryFile:
    """A file that somebody sent.

    Attributes
    ----------
    name : what messages call it.
    data : its bytes.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


SENT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are read of files in memory: those that people send, and no reader that few look at."""

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise for damaged files."""

FileSource = str | os.PathLike[str] | InMemoryFile


def file_source(source: FileSource) -> Path | InMemoryFile:
    """Return a path as `Path`, and a file in memory as it is."""
    return source if isinstance(source, InMemoryFile) else Path(source)


@contextlib.contextmanager
def opened_image(source: Path | InMemoryFile, *, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image and read its pixels; a file in memory must be of one of `SENT_FORMATS`.

    Raises
    ------
    ImageError : no such file, no image, a truncated one.
    TooLargeError : one of more than ``max_pixels`` pixels; looked at before anything is decoded.
    """
    if isinstance(source, Path) and not source.is_file():
        raise ImageError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}, wanted an image file")
    in_memory = isinstance(source, InMemoryFile)
    wanted = "PNG, JPEG, WebP, GIF or BMP" if in_memory else "PNG, JPEG or another image"
    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                # The limit below is ours; Pillow's warning would be a second voice.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                file = io.BytesIO(source.data) if isinstance(source, InMemoryFile) else source
                image = stack.enter_context(Image.open(file, formats=SENT_FORMATS if in_memory else None))
                check_pixels(source, *image.size, max_pixels=max_pixels)
                image.load()
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise TooLargeError(
                f"{source}: has far more than the {max_pixels} pixels that are read; scale it down first"
            ) from None
        except UnidentifiedImageError:
            raise ImageError(f"{source}: is no image file that Pillow can read, wanted {wanted}") from None
        except DAMAGED as error:
            raise damaged(source, error) from None
        yield image


def damaged(source: Path | InMemoryFile, error: Exception) -> ImageError:
    """Return the error of an image whose bytes are wrong."""
    return ImageError(f"{source}: can't be read as an image, it may be truncated ({error})")


def check_pixels(source: Path | InMemoryFile, width: int, height: int, *, max_pixels: int) -> None:
    """Raise TooLargeError for a picture of more than ``max_pixels`` pixels."""
    if width * height > max_pixels:
        raise TooLargeError(
            f"{source}: has {width} x {height} = {width * height} pixels, at most {max_pixels} are read; "
            "scale the picture down first"
        )
