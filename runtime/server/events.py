"""What is told about a request while its pictures are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
ImageArray = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreviewMade:
    """A picture while it is made: codes drawn or kept so far, and uint8 (H, W, C), grey where there is none yet."""

    index: int
    done_codes: int
    image: ImageArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PictureMade:
    """A finished picture: codes int64 (h, w), and uint8 (H, W, C) where pictures are wanted."""

    index: int
    codes: Int64Array
    image: ImageArray | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Failed:
    """The request has failed, and nothing follows."""

    error: Exception


@dataclasses.dataclass(frozen=True)
class Done:
    """All pictures have been told, and nothing follows."""


Event = PreviewMade | PictureMade | Failed | Done
Listener = Callable[[Event], None]
"""Called from any thread, one event after the other, and never after `Failed` or `Done`. It must not block."""
