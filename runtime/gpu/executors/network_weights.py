"""The layers of a VQGAN's network on a device, from the weights of its graph for GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.packed_conv import ConvLayer, pack_conv
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device, upload_new
from trt_vqgan.runtime.native.network_program import Step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DeviceConv:
    """A packed convolution: its sizes, weights and bias."""

    layer: ConvLayer
    weights: DeviceArray
    bias: DeviceArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DeviceNorm:
    """A norm's gain and bias, float32 (C,)."""

    gain: DeviceArray
    bias: DeviceArray


class StoredWeights(Protocol):
    """Where layers come from: `trt_vqgan.runtime.native.graph_weights.GraphWeights`, or arrays that stand for them."""

    def as_stored(self, name: str) -> npt.NDArray[Any]:
        """Return a weight in its own dtype."""


class NetworkWeights:
    """Convolutions and norms of the layers that ``steps`` name. Layers stored in float32 compute in float32.

    Parameters
    ----------
    device : where they go.
    weights : of the graph, float16 or float32.

    Raises
    ------
    BundleError : one is missing or of another shape.
    """

    def __init__(self, device: Device, steps: Iterable[Step], weights: StoredWeights) -> None:
        self._device = device
        self.convs: dict[str, DeviceConv] = {}
        self.norms: dict[str, DeviceNorm] = {}
        for step in steps:
            if step.kind == "convolve":
                self._add(step, weights)

    def _add(self, step: Step, weights: StoredWeights) -> None:
        kernel = weights.as_stored(f"{step.conv}.weight")
        packed = pack_conv(kernel, weights.as_stored(f"{step.conv}.bias").astype(np.float32))
        self.convs[step.conv] = DeviceConv(
            layer=packed.layer,
            weights=upload_new(self._device, packed.weights),
            bias=upload_new(self._device, packed.bias),
        )
        if step.norm is not None and step.norm not in self.norms:
            gain, bias = (weights.as_stored(f"{step.norm}.{part}").astype(np.float32) for part in ("weight", "bias"))
            self.norms[step.norm] = DeviceNorm(gain=upload_new(self._device, gain), bias=upload_new(self._device, bias))

    def free(self) -> None:
        """Give the memory back."""
        arrays = [array for conv in self.convs.values() for array in (conv.weights, conv.bias)]
        arrays += [array for norm in self.norms.values() for array in (norm.gain, norm.bias)]
        for array in arrays:
            array.memory.free()
        self.convs.clear()
        self.norms.clear()
