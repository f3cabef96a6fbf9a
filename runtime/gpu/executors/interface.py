"""The dense parts of the transformer between attentions, whatever computes them."""

from __future__ import annotations

from typing import Protocol

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.gpu.activations import Activations


class Executor(Protocol):
    """The L + 1 dense segments of a transformer of L layers, on the driver's device.

    Every call may return before its work is done, and runs in the order of the device's stream.
    """

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph may hold its calls, once the same calls were made outside of one."""

    def first(self, work: Activations) -> None:
        """Write ``work.qkv``: LayerNorm and the product of layer 0, of ``work.x``."""

    def middle(self, layer: int, work: Activations) -> None:
        """Finish layer ``layer - 1`` from ``work.attended`` and begin ``layer``: new ``work.x`` and ``work.qkv``.

        Projection and residual, LayerNorm, MLP and residual; then LayerNorm and the product of the next layer.
        """

    def last(self, x: DeviceArray, attended: DeviceArray, logits: DeviceArray) -> None:
        """Write ``logits`` float32 (B, R, V) of ``x`` float32 (B, R, d) and ``attended`` (B, R, d).

        The rest of the last layer, the last LayerNorm and the head. ``x`` and ``attended`` may be changed.
        """

    def describe(self) -> str:
        """Return what computes, for people."""

    def close(self) -> None:
        """Give everything back."""
