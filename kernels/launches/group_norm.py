"""Launches of `kernels/csrc/group_norm.cu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.reference.group_norm import EPSILON, GROUPS

_THREADS = 256
_NUMBERS_OF_BLOCK = _THREADS * 8 * 4
MAX_CHANNELS = 2048
_MAX_PARTS = 256
_NAMES = {np.dtype(np.float16): "half", np.dtype(np.float32): "float"}


@dataclass(frozen=True, kw_only=True)
class GroupNormPlan:
    """Pictures of one shape.

    Parameters
    ----------
    batch, pixels, channels : of x; channels a multiple of 32, at most `MAX_CHANNELS`.
    given, made : dtypes of x and the result, float16 or float32.

    Raises
    ------
    ShapeError : other sizes.
    """

    batch: int
    pixels: int
    channels: int
    given: np.dtype[Any]
    made: np.dtype[Any]

    def __post_init__(self) -> None:
        if min(self.batch, self.pixels, self.channels) < 1 or self.channels % GROUPS or self.channels > MAX_CHANNELS:
            raise ShapeError(
                f"group_norm: found {self.batch} pictures of {self.pixels} pixels and {self.channels} channels, wanted "
                f"at least one, and channels a multiple of {GROUPS} up to {MAX_CHANNELS}"
            )

    @property
    def _pixels_of_part(self) -> int:
        # a block's threads share its pixels; enough of them a thread to be worth the joining
        at_once = max(1, _THREADS * 8 // self.channels)
        return max(8 * at_once, -(-self.pixels // _MAX_PARTS))

    @property
    def parts(self) -> int:
        """Parts of a picture whose statistics are taken on their own."""
        return -(-self.pixels // self._pixels_of_part)

    @property
    def statistics_bytes(self) -> int:
        """Device memory that lies between the launches."""
        return self.batch * self.parts * GROUPS * 2 * 4

    def launches(
        self, *, x: int, gain: int, bias: int, out: int, statistics: int, swish: bool, epsilon: float = EPSILON
    ) -> tuple[Launch, Launch]:
        """Return what does `trt_vqgan.kernels.reference.group_norm.group_norm`; addresses on the device."""
        given, made = _NAMES[self.given], _NAMES[self.made]
        sizes = (np.int32(self.pixels), np.int32(self.channels))
        part = np.int32(self._pixels_of_part)
        measured = Launch(
            kernel=f"group_norm_statistics_{given}",
            grid=(self.parts, self.batch, 1),
            block=(_THREADS, 1, 1),
            shared_bytes=_THREADS * 8 * 2 * 4,
            arguments=(np.uint64(x), np.uint64(statistics), *sizes, part),
        )
        applied = Launch(
            kernel=f"group_norm_apply_{given}_{made}",
            grid=(-(-self.pixels * self.channels // _NUMBERS_OF_BLOCK), self.batch, 1),
            block=(_THREADS, 1, 1),
            shared_bytes=self.channels * 2 * 4,
            arguments=(
                *(np.uint64(address) for address in (x, statistics, gain, bias, out)),
                *sizes,
                np.int32(self.parts),
                part,
                np.float32(epsilon),
                np.int32(swish),
            ),
        )
        return measured, applied
