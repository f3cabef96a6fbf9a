"""A VQGAN's networks by our own kernels; needs neither TensorRT nor ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_vqgan.errors import BackendUnavailableError, ShapeError
from trt_vqgan.kernels.launches.group_norm import MAX_CHANNELS
from trt_vqgan.kernels.launches.picture_attention import WIDTHS
from trt_vqgan.kernels.launches.picture_layout import argmax_rows
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.executors.network_run import NetworkRun
from trt_vqgan.runtime.gpu.executors.network_weights import NetworkWeights
from trt_vqgan.runtime.gpu.executors.networks import NetworkName, fitting_pictures
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.network_program import Step, decoder_steps, encoder_steps
from trt_vqgan.spec import AutoencoderSpec


def check_network_fits(spec: AutoencoderSpec) -> None:
    """Raise BackendUnavailableError where a VQGAN's channels are more than the kernels take."""
    widths = [spec.base_channels * multiplier for multiplier in spec.channel_multipliers]
    levels = [width for i, width in enumerate(widths) if spec.resolution >> i in spec.attention_resolutions]
    attending = max([widths[-1], *levels]) if spec.use_attention else 0
    if attending > WIDTHS[-1]:
        raise BackendUnavailableError(
            f"CUDA kernels: this VQGAN has attention of {attending} channels, wanted at most {WIDTHS[-1]}; "
            "use --backend tensorrt"
        )
    if max(widths) > MAX_CHANNELS:
        raise BackendUnavailableError(
            f"CUDA kernels: this VQGAN has {max(widths)} channels, wanted at most {MAX_CHANNELS}; "
            "use --backend tensorrt"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    """A network's steps, and its layers on the device."""

    steps: list[Step]
    weights: NetworkWeights


class CudaNetworkExecutor:
    """`trt_vqgan.runtime.gpu.executors.networks.NetworkExecutor` of kernel launches.

    Weights are those of the graphs for GPUs, read and packed when a network is first used. Convolutions are in half on
    tensor cores; layers that the graph has in float32 compute in float32.

    Parameters
    ----------
    spec : the VQGAN.
    graphs : those that the bundle has.
    device : with the kernels loaded.

    Raises
    ------
    BackendUnavailableError : as `check_network_fits`.
    """

    number: np.dtype[Any] = np.dtype(np.float16)

    def __init__(self, spec: AutoencoderSpec, graphs: Mapping[NetworkName, Path], device: Device) -> None:
        check_network_fits(spec)
        self._spec, self._graphs, self._device = spec, graphs, device
        self._networks: dict[NetworkName, _Network] = {}

    def most_pictures(self, network: NetworkName, shape: tuple[int, ...]) -> int:
        """Return how many pictures fit the bound on memory."""
        return fitting_pictures(self._spec, network, shape)

    def run(self, network: NetworkName, given: DeviceArray, made: DeviceArray) -> None:
        """Launch a network."""
        loaded = self._network(network)
        run = NetworkRun(self._device, loaded.steps, loaded.weights)
        if network == "decoder":
            run.run(run.from_entries(given), made, form="planes")
            return
        pictures = run.from_planes(given)
        if self._spec.quantizer != "gumbel":
            run.run(pictures, made, form="float")
            return
        columns = self._spec.codebook_size
        logits = self._device.allocate((made.size, columns), np.float32)
        run.run(pictures, logits, form="float")
        self._device.launch(
            argmax_rows(x=int(logits.pointer), codes=int(made.pointer), rows=made.size, columns=columns, pitch=columns)
        )

    def _network(self, name: NetworkName) -> _Network:
        if name not in self._networks:
            if name not in self._graphs:
                raise ShapeError(f"this bundle has no {name} for such pictures")
            weights = GraphWeights(self._graphs[name])
            make = decoder_steps if name == "decoder" else encoder_steps
            steps = make(self._spec, has=lambda layer: f"{layer}.weight" in weights)
            self._networks[name] = _Network(steps=steps, weights=NetworkWeights(self._device, steps, weights))
        return self._networks[name]

    def describe(self) -> str:
        """Return what computes."""
        return "own CUDA kernels"

    def close(self) -> None:
        """Give the weights back."""
        for network in self._networks.values():
            network.weights.free()
        self._networks.clear()
