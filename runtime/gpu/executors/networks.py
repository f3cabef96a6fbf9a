"""Who computes a VQGAN's encoder and decoder on a device: the interface."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.memory import decode_bytes, encode_bytes
from trt_vqgan.spec import AutoencoderSpec

NetworkName = Literal["encoder", "decoder"]

MOST_PICTURES = 8
"""At once: a GPU is busy with them, and more would only take more memory."""

PICTURE_BYTES = 4 << 30
"""Bound on the activations of the pictures that run at once; one picture may need more."""


class NetworkExecutor(Protocol):
    """Encoder and decoder of one VQGAN, with the inputs and outputs of `trt_vqgan.export.gpu_autoencoder`'s graphs."""

    @property
    def number(self) -> np.dtype[Any]:
        """Dtype of the decoder's input and output."""

    def most_pictures(self, network: NetworkName, shape: tuple[int, ...]) -> int:
        """Return how many inputs of ``shape``, one picture's, it takes at once.

        Raises
        ------
        ShapeError : not even one; says what it would take.
        """

    def run(self, network: NetworkName, given: DeviceArray, made: DeviceArray) -> None:
        """Put a run of a network on the device's stream.

        Parameters
        ----------
        given : of the encoder: pictures float32 (B, C, H, W); of the decoder: codebook entries (B, h, w, D).
        made : of the encoder: latents float32 (B, h, w, D), or with Gumbel codes int32 (B, h, w); of the decoder:
            planes (B, C, H, W).
        """

    def describe(self) -> str:
        """Return what computes, for people."""

    def close(self) -> None:
        """Give everything back."""


def fitting_pictures(spec: AutoencoderSpec, network: NetworkName, shape: tuple[int, ...]) -> int:
    """Return how many pictures run at once where only memory bounds them; ``shape`` is one picture's input."""
    if network == "decoder":
        each = decode_bytes(spec, shape[0], shape[1])
    else:
        each = encode_bytes(spec, -(-shape[1] // spec.factor), -(-shape[2] // spec.factor))
    return max(1, min(MOST_PICTURES, PICTURE_BYTES // each))
