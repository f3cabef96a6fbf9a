"""What lies around a VQGAN's networks on a device: nearest codes, codebook entries, and bytes of pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.launches.gather_codes import gather_codes as gather_launch
from trt_vqgan.kernels.launches.nearest_code import NearestCodePlan
from trt_vqgan.kernels.launches.pixels import pixels as pixels_launch
from trt_vqgan.kernels.packed_codebook import pack_codebook
from trt_vqgan.kernels.reference.gather_codes import gather_codes
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.kernels.reference.pixels import pixels
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.device.interface import Device, upload_new

FloatArray = npt.NDArray[np.float32]


class CodeOperations(Protocol):
    """These operations with one codebook, on one device."""

    def gather_codes(self, codes: DeviceArray, latents: DeviceArray) -> None:
        """Write the entries of ``codes`` int32 (M,) to ``latents`` (M, D), float16 or float32 as the codebook is."""

    def nearest_code(self, latents: DeviceArray, codes: DeviceArray) -> None:
        """Write the codes int32 (M,) nearest to ``latents`` float32 (M, D)."""

    def pixels(self, planes: DeviceArray, pictures: DeviceArray) -> None:
        """Write ``planes`` (B, C, H, W), float16 or float32, about [-1, 1], to ``pictures`` uint8 (B, H, W, C)."""

    def close(self) -> None:
        """Give the codebook back."""


class HostCodeOperations:
    """The kernels' definitions on NumPy memory.

    Parameters
    ----------
    device : whose arrays they work on.
    codebook : float32 (N, D).
    number : dtype of the decoder's input.
    """

    def __init__(self, device: HostDevice, codebook: FloatArray, *, number: npt.DTypeLike) -> None:
        self._device, self._codebook = device, codebook
        self._entries: npt.NDArray[Any] = codebook.astype(number)

    def gather_codes(self, codes: DeviceArray, latents: DeviceArray) -> None:
        """Write entries."""
        self._device.view(latents)[...] = gather_codes(self._device.view(codes), self._entries)

    def nearest_code(self, latents: DeviceArray, codes: DeviceArray) -> None:
        """Write codes."""
        self._device.view(codes)[...] = nearest_code(self._device.view(latents), self._codebook)

    def pixels(self, planes: DeviceArray, pictures: DeviceArray) -> None:
        """Write pictures."""
        self._device.view(pictures)[...] = pixels(self._device.view(planes))

    def close(self) -> None:
        """Return: the codebook goes with this object."""


class CudaCodeOperations:
    """The kernels.

    Parameters
    ----------
    device : with the kernels loaded.
    codebook : float32 (N, D).
    number : dtype of the decoder's input.
    searched : whether codes are looked up in it; a Gumbel encoder makes codes itself.
    """

    def __init__(
        self, device: Device, codebook: FloatArray, *, number: npt.DTypeLike = np.float16, searched: bool = True
    ) -> None:
        self._device = device
        self._entries = upload_new(device, np.ascontiguousarray(codebook.astype(number)))
        self._packed = pack_codebook(codebook) if searched else None
        self._memory = None if self._packed is None else upload_new(device, self._packed.memory)

    def gather_codes(self, codes: DeviceArray, latents: DeviceArray) -> None:
        """Launch the lookup of entries."""
        size, dim = self._entries.shape
        self._device.launch(
            gather_launch(
                codes=int(codes.pointer),
                codebook=int(self._entries.pointer),
                out=int(latents.pointer),
                rows=codes.size,
                size=size,
                entry_bytes=dim * self._entries.dtype.itemsize,
            )
        )

    def nearest_code(self, latents: DeviceArray, codes: DeviceArray) -> None:
        """Launch the search."""
        assert self._packed is not None
        assert self._memory is not None
        plan = NearestCodePlan(
            codebook=self._packed,
            rows=len(latents),
            multiprocessors=self._device.multiprocessors,
            shared_limit=self._device.shared_limit,
        )
        workspace = self._device.allocate((plan.workspace_bytes,), np.uint8)
        for launch in plan.launches(
            z=int(latents.pointer),
            codebook=int(self._memory.pointer),
            codes=int(codes.pointer),
            workspace=int(workspace.pointer),
        ):
            self._device.launch(launch)
        workspace.memory.free()

    def pixels(self, planes: DeviceArray, pictures: DeviceArray) -> None:
        """Launch the rounding."""
        batch, channels, height, width = planes.shape
        self._device.launch(
            pixels_launch(
                planes=int(planes.pointer),
                pictures=int(pictures.pointer),
                batch=batch,
                channels=channels,
                height=height,
                width=width,
                dtype=planes.dtype,
            )
        )

    def close(self) -> None:
        """Give the codebook back."""
        self._entries.memory.free()
        if self._memory is not None:
            self._memory.memory.free()
