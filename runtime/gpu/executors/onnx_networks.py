"""A VQGAN's graphs through ONNX Runtime: on the CPU, or on a GPU with the CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.executors.bound_session import BoundSession, describe_onnxruntime
from trt_vqgan.runtime.gpu.executors.networks import NetworkName, fitting_pictures
from trt_vqgan.spec import AutoencoderSpec

INPUTS: dict[NetworkName, str] = {"encoder": "image", "decoder": "latents"}


def output_name(spec: AutoencoderSpec, network: NetworkName) -> str:
    """Return the name of a graph's output."""
    if network == "decoder":
        return "pixels"
    return "codes" if spec.quantizer == "gumbel" else "z"


class OnnxNetworkExecutor:
    """`trt_vqgan.runtime.gpu.executors.networks.NetworkExecutor`; a graph is opened when it is first used.

    Parameters
    ----------
    spec : the VQGAN.
    graphs : those that the bundle has.
    device : where they run.
    number : dtype of the decoder's input and output.
    threads : threads of each session's pool, on the CPU.
    """

    def __init__(
        self,
        spec: AutoencoderSpec,
        graphs: Mapping[NetworkName, Path],
        device: Device,
        *,
        number: npt.DTypeLike = np.float16,
        threads: int = 1,
    ) -> None:
        self._spec, self._graphs, self._device, self._threads = spec, graphs, device, threads
        self.number: np.dtype[Any] = np.dtype(number)
        self._sessions: dict[NetworkName, BoundSession] = {}

    def most_pictures(self, network: NetworkName, shape: tuple[int, ...]) -> int:
        """Return how many pictures fit the bound on memory."""
        return fitting_pictures(self._spec, network, shape)

    def run(self, network: NetworkName, given: DeviceArray, made: DeviceArray) -> None:
        """Run a graph."""
        if network not in self._sessions:
            if network not in self._graphs:
                raise ShapeError(f"this bundle has no {network} for such pictures")
            self._sessions[network] = BoundSession(
                self._graphs[network], self._device, threads=self._threads, arena=False
            )
        self._sessions[network].run({INPUTS[network]: given}, {output_name(self._spec, network): made})

    def describe(self) -> str:
        """Return what computes."""
        return describe_onnxruntime(self._device)

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.clear()
