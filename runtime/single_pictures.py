"""Pictures encoded and decoded one at a time, whatever computes a network."""

from __future__ import annotations

import abc

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.runtime.autoencoder import to_uint8
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class SinglePictures(abc.ABC):
    """The part of `trt_vqgan.runtime.autoencoder_networks.Networks` that takes batches apart.

    A picture's bits then can't depend on its neighbours, memory stays that of one picture, and a picture's convolutions
    fill all threads by themselves.

    Parameters
    ----------
    spec : the VQGAN.
    codebook : float32 (N, D).
    """

    def __init__(self, spec: AutoencoderSpec, *, codebook: FloatArray) -> None:
        self._spec, self._codebook = spec, codebook

    @abc.abstractmethod
    def latents(self, picture: FloatArray) -> FloatArray:
        """Return the encoder's output of one picture float32 (C, H, W): (D, h, w), or with Gumbel logits (N, h, w)."""

    @abc.abstractmethod
    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's output, as `Networks` says."""

    def encode(self, maps: FloatArray, codes: Int64Array) -> None:
        """Fill ``codes``, as `Networks` says."""
        for i, picture in enumerate(maps):
            codes[i] = self._nearest(self.latents(np.ascontiguousarray(picture, dtype=np.float32)))

    def decode(self, codes: Int64Array, images: ImageArray) -> None:
        """Fill ``images``, as `Networks` says."""
        for image, grid in zip(images, codes, strict=True):
            image[...] = to_uint8(self.pixels(grid))

    def _nearest(self, latents: FloatArray) -> Int64Array:
        """Return codes int64 (h, w) of an encoder's output."""
        if self._spec.quantizer == "gumbel":
            best: Int64Array = latents.argmax(axis=0)
            return best
        depth, height, width = latents.shape
        rows = np.ascontiguousarray(latents.reshape(depth, -1).T)
        return nearest_code(rows, self._codebook).reshape(height, width)
