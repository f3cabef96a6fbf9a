"""Times of a whole decoder by our own kernels, beside its floor and torch in float16, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.gpu_check.device_memory import random_halves
from trt_vqgan.benchmarks.gpu_check.floors import Work
from trt_vqgan.benchmarks.gpu_check.open_gpu import need_torch, open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.shapes import PUBLISHED_F16
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.executors.network_run import NetworkRun
from trt_vqgan.runtime.gpu.executors.network_weights import NetworkWeights
from trt_vqgan.runtime.native.network_program import Step, decoder_steps
from trt_vqgan.spec import AutoencoderSpec

SIZES = ((1, 16), (8, 16), (1, 64))
"""Pictures, and codes a side: 256 pixels, and 1024."""


class TorchWeights:
    """The weights of a torch module, in half."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __contains__(self, layer: str) -> bool:
        return f"{layer}.weight" in self._state

    def as_stored(self, name: str) -> npt.NDArray[Any]:
        """Return a weight, float16."""
        weight: npt.NDArray[Any] = self._state[name].detach().cpu().numpy()
        return weight.astype(np.float16)


class TimedDecoder:
    """A decoder with random weights, by our kernels and by torch.

    Parameters
    ----------
    device : with the kernels loaded.
    spec : of the VQGAN.
    """

    def __init__(self, device: Device, spec: AutoencoderSpec) -> None:
        from trt_vqgan.export.vqgan_modules import Autoencoder

        self._device, self._spec = device, spec
        self.model = Autoencoder(spec).eval()
        weights = TorchWeights(self.model.state_dict())
        self.steps: list[Step] = decoder_steps(spec, has=lambda layer: layer in weights)
        self.weights = NetworkWeights(device, self.steps, weights)

    def arrays(self, batch: int, side: int) -> tuple[DeviceArray, DeviceArray]:
        """Return random codebook entries, and where the picture goes."""
        spec, pixels = self._spec, side * self._spec.factor
        latents = random_halves(self._device, (batch, side, side, spec.code_dim))
        return latents, self._device.allocate((batch, spec.out_channels, pixels, pixels), np.float16)

    def issue(self, latents: DeviceArray, planes: DeviceArray) -> None:
        """Launch the whole decoder."""
        run = NetworkRun(self._device, self.steps, self.weights)
        run.run(run.from_entries(latents), planes, form="planes")

    def work(self, batch: int, side: int) -> Work:
        """Return the products' operations, and the weights and pictures that must move."""
        pixels, channels, flop, weights = [side * side], [self._spec.code_dim], 0, 0
        for step in self.steps:
            count, depth = pixels[step.read], channels[step.read]
            if step.kind == "convolve":
                layer = self.weights.convs[step.conv].layer
                count = {"same": count, "halve": count // 4, "double": count * 4}[step.mode]
                size = layer.channels * layer.outputs * layer.side**2
                flop, weights, depth = flop + 2 * count * size, weights + 2 * size, layer.outputs
            elif step.kind == "attend":
                flop += 4 * count**2 * depth
            else:
                count = count * 4 if step.kind == "repeat" else count // 4
            pixels.append(count)
            channels.append(depth)
        moved = 2 * batch * (pixels[0] * channels[0] + pixels[-1] * channels[-1])
        return Work(bytes=weights + moved, flop=batch * flop)


def run(records: Records, settings: Settings) -> None:
    """Time the published decoder."""
    need_torch()
    with open_gpu(settings.gpu) as device:
        time_decoder(records, device, PUBLISHED_F16, SIZES)


def time_decoder(records: Records, device: Device, spec: AutoencoderSpec, sizes: Sequence[tuple[int, int]]) -> None:
    """Write what decoders take; launches come from the host one by one, as the runtime issues them."""
    from trt_vqgan.benchmarks.gpu_check.gpu_timer import stream_times, torch_times

    timed = TimedDecoder(device, spec)
    for batch, side in sizes:
        pixels = side * spec.factor
        with records.part(f"decoder {batch}x{pixels}x{pixels}"):
            latents, planes = timed.arrays(batch, side)
            seconds = stream_times(device.stream, lambda: timed.issue(latents, planes))  # noqa: B023
            work = timed.work(batch, side)
            name = "decoder (baseline: torch, channels last, CUDA graph)"
            baseline = torch_times([torch_decoder(timed.model, batch, side)])
            records.bench(name, f"{batch}x{pixels}x{pixels}", seconds, work=work, baseline=baseline)


def torch_decoder(model: Any, batch: int, side: int, *, device: str = "cuda", half: bool = True) -> Callable[[], Any]:
    """Return torch's decode of codes, float16 and channels last."""
    import torch

    torch.backends.cudnn.benchmark = True
    moved = model.to(device=device, memory_format=torch.channels_last)
    moved = moved.half() if half else moved
    codes = torch.zeros((batch, side, side), dtype=torch.long, device=device)

    def decode() -> Any:
        with torch.no_grad():
            return moved.decode_codes(codes)

    return decode
