"""Many pictures on one."""

from __future__ import annotations

import math

import numpy as np

from trt_vqgan.errors import ImageError
from trt_vqgan.runtime.images import MAX_PIXELS, ImageArray

GAP_PIXELS = 2
BACKGROUND = 255


class ContactSheet:
    """A sheet with room for ``count`` pictures of ``height`` x ``width`` pixels, in rows.

    Parameters
    ----------
    columns : pictures a row; by default as many as make the sheet about as wide as high.

    Raises
    ------
    ImageError : the sheet would have more than MAX_PIXELS pixels.
    """

    def __init__(self, count: int, height: int, width: int, *, columns: int | None = None) -> None:
        self.count, self.height, self.width = count, height, width
        self.columns = min(count, columns if columns is not None else max(1, round(math.sqrt(count * height / width))))
        self.rows = -(-count // self.columns)
        sheet_height = self.rows * (height + GAP_PIXELS) + GAP_PIXELS
        sheet_width = self.columns * (width + GAP_PIXELS) + GAP_PIXELS
        if sheet_height * sheet_width > MAX_PIXELS:
            raise ImageError(
                f"a contact sheet of {count} pictures would have {sheet_width} x {sheet_height} pixels, at most "
                f"{MAX_PIXELS} are written; make fewer pictures, or leave the sheet out"
            )
        self.image: ImageArray = np.full((sheet_height, sheet_width, 3), BACKGROUND, dtype=np.uint8)

    def put(self, index: int, image: ImageArray) -> None:
        """Put ``image`` uint8 (height, width, 3) in place ``index`` (0 … count-1), row by row."""
        row, column = divmod(index, self.columns)
        top = GAP_PIXELS + row * (self.height + GAP_PIXELS)
        left = GAP_PIXELS + column * (self.width + GAP_PIXELS)
        self.image[top : top + self.height, left : left + self.width] = image
