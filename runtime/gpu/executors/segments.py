"""What executors share that run the dense parts as graphs of named inputs and outputs, one a segment."""

from __future__ import annotations

import abc

import numpy as np

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.gpu.activations import Activations

Arrays = dict[str, DeviceArray]


class SegmentExecutor(abc.ABC):
    """The calls of `Executor` as runs of segments; what runs one is the subclass's.

    Parameters
    ----------
    count : segments, one more than layers.
    """

    def __init__(self, count: int) -> None:
        self._last = count - 1

    def first(self, work: Activations) -> None:
        """Run segment 0."""
        self._run(0, {"x": work.x}, {"qkv": _flat(work.qkv)})

    def middle(self, layer: int, work: Activations) -> None:
        """Run segment ``layer``. It can't write to what it reads, so the residual stream changes its buffer."""
        inputs = {"x": work.x, "attended": work.attended}
        self._run(layer, inputs, {"x_out": work.spare, "qkv": _flat(work.qkv)})
        work.swap()

    def last(self, x: DeviceArray, attended: DeviceArray, logits: DeviceArray) -> None:
        """Run the last segment."""
        self._run(self._last, {"x": x, "attended": attended}, {"logits": logits})

    @abc.abstractmethod
    def _run(self, index: int, inputs: Arrays, outputs: Arrays) -> None:
        """Run segment ``index`` on arrays of the device, in the order of its stream."""


def _flat(qkv: DeviceArray) -> DeviceArray:
    """Return queries, keys and values (B, T, 3, H, D) as the segments see them, (B, T, 3 d)."""
    batch, tokens = qkv.shape[:2]
    return qkv.reshape(batch, tokens, int(np.prod(qkv.shape[2:])))
