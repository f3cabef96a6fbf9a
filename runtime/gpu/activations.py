"""The buffers that a forward pass of some tokens goes through."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.spec import TransformerSpec

FLOAT = np.dtype(np.float32)


@dataclasses.dataclass
class Activations:
    """Buffers of B rows of T tokens; the numbers of a model are float16, or float32 where it is checked exactly.

    Attributes
    ----------
    x : float32 (B, T, d), the residual stream.
    spare : float32 (B, T, d), for parts that can't write to what they read; `swap` then makes it ``x``.
    qkv : numbers (B, T, 3, H, D), queries (not scaled), keys and values.
    attended : numbers (B, T, d), what attention made of them.
    """

    x: DeviceArray
    spare: DeviceArray
    qkv: DeviceArray
    attended: DeviceArray

    @property
    def batch(self) -> int:
        """Rows."""
        return self.x.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens a row."""
        return self.x.shape[1]

    def swap(self) -> None:
        """Take what was written to ``spare`` as the residual stream."""
        self.x, self.spare = self.spare, self.x

    def free(self) -> None:
        """Give the buffers back."""
        for array in (self.x, self.spare, self.qkv, self.attended):
            array.memory.free()


def allocate_activations(
    device: Device, spec: TransformerSpec, *, batch: int, tokens: int, number: np.dtype[Any]
) -> Activations:
    """Return buffers for ``batch`` rows of ``tokens`` tokens, with anything in them."""
    width = spec.hidden_size
    return Activations(
        x=device.allocate((batch, tokens, width), FLOAT),
        spare=device.allocate((batch, tokens, width), FLOAT),
        qkv=device.allocate((batch, tokens, 3, spec.num_heads, spec.head_size), number),
        attended=device.allocate((batch, tokens, width), number),
    )


def activation_bytes(spec: TransformerSpec, *, tokens: int, rows: int, number: np.dtype[Any]) -> int:
    """Return the bytes that one row of a batch takes, its logits and what an executor holds inside included."""
    inside = 8 * number.itemsize + 2 * FLOAT.itemsize  # qkv, attended, the MLP's hidden layer; x and spare
    head = spec.vocab_size * FLOAT.itemsize + spec.hidden_size * (number.itemsize + FLOAT.itemsize)
    return tokens * spec.hidden_size * inside + rows * head
