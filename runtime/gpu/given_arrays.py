"""Arrays of other libraries on the GPU that a bundle runs on, given as pictures, codes or conditions."""

from __future__ import annotations

from typing import Any

from trt_vqgan.runtime.device.dlpack import CUDA, take
from trt_vqgan.runtime.gpu.turns import DeviceTurns


def on_host(turns: DeviceTurns, value: Any) -> Any:
    """Return ``value``, or its copy on the host where it is an array on a GPU: NumPy, same shape and dtype.

    Pictures, codes and conditions are checked and prepared on the host, so they are copied there once, behind what made
    them.

    Raises
    ------
    ShapeError : the array lies on another GPU, isn't C-contiguous, or holds another kind of numbers.
    """
    kind = getattr(value, "__dlpack_device__", None)
    if kind is None or int(kind()[0]) != CUDA:
        return value
    with turns.turn():
        array = take(turns.device, value)
        try:
            return turns.device.download(array)
        finally:
            array.memory.free()
