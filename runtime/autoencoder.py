"""A VQGAN: pictures or condition maps to codes, codes to pictures."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.autoencoder_networks import Networks
from trt_vqgan.runtime.buffers import result_array
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class Autoencoder:
    """Encoder, nearest code and decoder of one VQGAN: checks what it is given, and lets `Networks` compute.

    Safe to call from several threads.

    Parameters
    ----------
    spec : the VQGAN.
    networks : compute; closed with this.
    codebook : float32 (N, D).
    """

    def __init__(self, spec: AutoencoderSpec, *, networks: Networks, codebook: FloatArray) -> None:
        self.spec = spec
        self.codebook = codebook
        self.networks = networks

    @functools.cached_property
    def mean_code(self) -> int:
        """The code whose entry is nearest to the codebook's mean."""
        return int(np.square(self.codebook - self.codebook.mean(axis=0)).sum(axis=1).argmin())

    def encode(self, maps: FloatArray, *, out: object = None) -> Int64Array:
        """Return the codes of pictures or condition maps.

        Parameters
        ----------
        maps : float32 (B, C, H, W) in [-1, 1] (one-hot for labels), H and W multiples of the factor.
        out : where the codes go, an array of the caller's; None makes one.

        Returns
        -------
        int64 (B, h, w)

        Raises
        ------
        ShapeError : another number of channels, sides that are no multiples of the factor, or an ``out`` that isn't
            int64 (B, h, w).
        """
        channels, factor = self.spec.in_channels, self.spec.factor
        if maps.ndim != 4 or maps.shape[1] != channels or not maps.shape[2] or not maps.shape[3]:
            raise ShapeError(f"encode: found shape {maps.shape}, wanted (B, {channels}, H, W)")
        height, width = maps.shape[2:]
        if height % factor or width % factor:
            raise ShapeError(
                f"encode: found {width}x{height} pixels, wanted multiples of {factor}; pad or crop the picture"
            )
        shape = (len(maps), height // factor, width // factor)
        codes = result_array(out, shape, np.int64, name="encode", source=maps)
        self.networks.encode(maps, codes)
        return codes

    def decode(self, codes: Int64Array, *, out: object = None) -> ImageArray:
        """Return pictures uint8 (B, H, W, C) of codes int64 (B, h, w), in the array ``out`` where one is given.

        Pixels are (x + 1) x 127.5, clipped and truncated, as published.

        Raises
        ------
        ShapeError : another shape, a code outside the codebook, or an ``out`` that isn't uint8 (B, H, W, C).
        """
        self.check_codes(codes)
        factor = self.spec.factor
        shape = (len(codes), codes.shape[1] * factor, codes.shape[2] * factor, self.spec.out_channels)
        images = result_array(out, shape, np.uint8, name="decode", source=codes)
        self.networks.decode(codes, images)
        return images

    def decode_pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's own output, float32 (C, H, W) about [-1, 1], of one checked grid int64 (h, w)."""
        return self.networks.pixels(grid)

    def check_codes(self, codes: Int64Array) -> None:
        """Raise ShapeError unless codes are (B, h, w) with at least one code a picture, all in the codebook."""
        size = self.spec.codebook_size
        if codes.ndim != 3 or not codes.shape[1] or not codes.shape[2]:
            raise ShapeError(f"decode: found shape {codes.shape}, wanted (B, h, w)")
        if codes.size and (codes.min() < 0 or codes.max() >= size):
            raise ShapeError(f"decode: found codes from {codes.min()} to {codes.max()}, wanted 0 to {size - 1}")

    def close(self) -> None:
        """Release the networks."""
        self.networks.close()


def to_uint8(pixels: FloatArray) -> ImageArray:
    """Return uint8 (H, W, C) of decoder output float32 (C, H, W): (x + 1) x 127.5 clipped to 0 … 255, truncated."""
    scaled = (pixels + np.float32(1)) * np.float32(127.5)
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def from_uint8(images: ImageArray) -> FloatArray:
    """Return float32 (B, C, H, W) = x / 127.5 - 1 of pictures uint8 (B, H, W, C)."""
    return np.ascontiguousarray((images.astype(np.float32) / np.float32(127.5) - np.float32(1)).transpose(0, 3, 1, 2))
