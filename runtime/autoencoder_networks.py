"""What computes a VQGAN's two networks, as `trt_vqgan.runtime.autoencoder` sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class Networks(Protocol):
    """Encoder, nearest code and decoder of one VQGAN, given what was checked. Safe to call from several threads."""

    def encode(self, maps: FloatArray, codes: Int64Array) -> None:
        """Fill ``codes`` int64 (B, h, w) with those of ``maps`` float32 (B, C, H, W) about [-1, 1]."""

    def decode(self, codes: Int64Array, images: ImageArray) -> None:
        """Fill ``images`` uint8 (B, H, W, C) with the pictures of ``codes`` int64 (B, h, w).

        Definition: `trt_vqgan.kernels.reference.pixels`.
        """

    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's own output float32 (C, H, W) about [-1, 1] of codes int64 (h, w)."""

    def describe(self) -> str:
        """Return what computes, for people."""

    def close(self) -> None:
        """Give up sessions and memory; a second call does nothing."""
