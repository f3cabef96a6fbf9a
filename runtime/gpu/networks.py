"""A VQGAN's networks on a device: pictures and codes go in, codes and bytes come out, all between stays there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import upload_new
from trt_vqgan.runtime.gpu.code_operations import CodeOperations
from trt_vqgan.runtime.gpu.executors.networks import NetworkExecutor, NetworkName
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class DeviceNetworks:
    """`trt_vqgan.runtime.autoencoder_networks.Networks` on a device. As many pictures at once as the executor takes.

    Parameters
    ----------
    spec : the VQGAN.
    turns : the device.
    executor, operations : compute on it; closed with this.
    """

    def __init__(
        self, spec: AutoencoderSpec, turns: DeviceTurns, *, executor: NetworkExecutor, operations: CodeOperations
    ) -> None:
        self._spec, self._turns = spec, turns
        self._executor, self._operations = executor, operations
        self._closed = False

    def encode(self, maps: FloatArray, codes: Int64Array) -> None:
        """Fill ``codes``, as `Networks` says."""
        with self._turns.turn():
            for part in self._parts("encoder", maps.shape):
                codes[part] = self._turns.device.download(self._encoded(maps[part], codes[part].shape))

    def _encoded(self, maps: FloatArray, shape: tuple[int, ...]) -> DeviceArray:
        """Return the codes int32 (B, h, w) of pictures on the device."""
        device = self._turns.device
        image = upload_new(device, np.ascontiguousarray(maps, dtype=np.float32))
        codes = device.allocate(shape, np.int32)
        if self._spec.quantizer == "gumbel":
            self._executor.run("encoder", image, codes)
            return codes
        latents = device.allocate((*shape, self._spec.code_dim), np.float32)
        self._executor.run("encoder", image, latents)
        image.memory.free()
        self._operations.nearest_code(latents.reshape(codes.size, self._spec.code_dim), codes.reshape(codes.size))
        return codes

    def decode(self, codes: Int64Array, images: ImageArray) -> None:
        """Fill ``images``, as `Networks` says."""
        with self._turns.turn():
            for part in self._parts("decoder", (*codes.shape, self._spec.code_dim)):
                pictures = self._turns.device.allocate(images[part].shape, np.uint8)
                self._operations.pixels(self._decoded(codes[part]), pictures)
                images[part] = self._turns.device.download(pictures)

    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's output, as `Networks` says."""
        with self._turns.turn():
            # asked for even of one picture, as it may be too large
            next(self._parts("decoder", (1, *grid.shape, self._spec.code_dim)))
            planes = self._turns.device.download(self._decoded(grid[None]))
        picture: FloatArray = planes[0].astype(np.float32, copy=False)
        return picture

    def _decoded(self, codes: Int64Array) -> DeviceArray:
        """Return the planes (B, C, H, W) of codes, on the device."""
        spec, device = self._spec, self._turns.device
        batch, height, width = codes.shape
        flat = upload_new(device, codes.astype(np.int32).reshape(-1))
        latents = device.allocate((*codes.shape, spec.code_dim), self._executor.number)
        self._operations.gather_codes(flat, latents.reshape(codes.size, spec.code_dim))
        shape = (batch, spec.out_channels, height * spec.factor, width * spec.factor)
        planes = device.allocate(shape, self._executor.number)
        self._executor.run("decoder", latents, planes)
        return planes

    def _parts(self, network: NetworkName, shape: tuple[int, ...]) -> Iterator[slice]:
        """Yield the parts of a batch that run at once."""
        most = self._executor.most_pictures(network, shape[1:])
        for start in range(0, shape[0], most):
            yield slice(start, min(start + most, shape[0]))

    def describe(self) -> str:
        """Return what computes, and where, for people."""
        return f"{self._executor.describe()}, {self._turns.device.describe()}"

    def close(self) -> None:
        """Give the device's memory back; a second call does nothing."""
        with self._turns.alone():
            if self._closed:
                return
            self._closed = True
            with self._turns.device.active():
                self._executor.close()
                self._operations.close()
