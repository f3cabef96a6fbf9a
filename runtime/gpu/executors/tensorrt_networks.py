"""A VQGAN's graphs as TensorRT engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.engine_records import Profile
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.engine_session import EngineSession, LoadedEngine
from trt_vqgan.runtime.gpu.executors.networks import NetworkName
from trt_vqgan.runtime.gpu.executors.onnx_networks import INPUTS, output_name
from trt_vqgan.runtime.gpu.executors.tensorrt import SCRATCH_ALIGNMENT
from trt_vqgan.spec import AutoencoderSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkEngine:
    """A network's engine: what loads it, when it is first used, and its profiles by their index."""

    load: Callable[[], LoadedEngine]
    profiles: tuple[Profile, ...]


class TensorRTNetworkExecutor:
    """`trt_vqgan.runtime.gpu.executors.networks.NetworkExecutor`: one context a profile, bound anew for each run.

    Parameters
    ----------
    spec : the VQGAN.
    engines : of the networks that the bundle has.
    device : where they run.
    title : of the TensorRT that runs them.
    number : dtype of the decoder's input and output.
    """

    def __init__(
        self,
        spec: AutoencoderSpec,
        engines: Mapping[NetworkName, NetworkEngine],
        device: Device,
        *,
        title: str,
        number: npt.DTypeLike = np.float16,
    ) -> None:
        self._spec, self._engines, self._device, self._title = spec, dict(engines), device, title
        self.number: np.dtype[Any] = np.dtype(number)
        self._loaded: dict[NetworkName, LoadedEngine] = {}
        self._sessions: dict[tuple[NetworkName, int], EngineSession] = {}
        self._scratch: DeviceArray | None = None

    def most_pictures(self, network: NetworkName, shape: tuple[int, ...]) -> int:
        """Return the largest batch of the first profile that takes such pictures."""
        return self._profile(network, (1, *shape))[1]

    def _profile(self, network: NetworkName, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return index and largest batch of the first profile that takes ``shape``."""
        if network not in self._engines:
            raise ShapeError(f"this bundle has no {network} for such pictures")
        ranges = [profile.shapes[INPUTS[network]] for profile in self._engines[network].profiles]
        for index, each in enumerate(ranges):
            if all(low <= side <= high for low, side, high in zip(each.minimum, shape, each.maximum, strict=True)):
                return index, each.maximum[0]
        raise self._too_large(network, shape, ranges[-1].maximum)

    def _too_large(self, network: NetworkName, shape: tuple[int, ...], largest: tuple[int, ...]) -> ShapeError:
        factor = self._spec.factor
        if network == "encoder":
            return ShapeError(
                f"encode: found {shape[3]}x{shape[2]} pixels, wanted at most {largest[3]}x{largest[2]}, for which the "
                "engine was built; give a smaller picture, or --backend cuda"
            )
        return ShapeError(
            f"decode: found {shape[2]}x{shape[1]} codes, wanted at most {largest[2]}x{largest[1]} "
            f"({largest[2] * factor}x{largest[1] * factor} pixels), for which the engine was built; decode in tiles "
            "(--decode-tiles), or give --backend cuda"
        )

    def run(self, network: NetworkName, given: DeviceArray, made: DeviceArray) -> None:
        """Bind and enqueue."""
        index, _ = self._profile(network, given.shape)
        session = self._session(network, index)
        session.bind(INPUTS[network], int(given.pointer), given.shape)
        session.bind(output_name(self._spec, network), int(made.pointer), made.shape)
        scratch = self._scratch_of(session.scratch_bytes())
        session.bind_scratch(int(scratch.pointer), scratch.nbytes)
        session.enqueue(self._device.stream)

    def _session(self, network: NetworkName, index: int) -> EngineSession:
        if network not in self._loaded:
            self._loaded[network] = self._engines[network].load()
        if (network, index) not in self._sessions:
            self._sessions[network, index] = self._loaded[network].session(
                profile=index, stream_handle=self._device.stream
            )
        return self._sessions[network, index]

    def _scratch_of(self, needed: int) -> DeviceArray:
        """Return the memory that all contexts share, as they run one after the other."""
        if self._scratch is None or self._scratch.nbytes < needed:
            if self._scratch is not None:
                self._scratch.memory.free()
            rounded = -(-max(needed, 1) // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
            self._scratch = self._device.allocate((rounded,), np.uint8)
        return self._scratch

    def describe(self) -> str:
        """Return what computes."""
        return self._title

    def close(self) -> None:
        """Keep what was compiled; release contexts, engines and scratch memory."""
        for engine in self._loaded.values():
            engine.save_compiled()
        self._sessions.clear()
        self._loaded.clear()
        if self._scratch is not None:
            self._scratch.memory.free()
            self._scratch = None
