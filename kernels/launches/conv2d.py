"""Launches of `kernels/csrc/conv2d.cu` and `conv2d_float.cu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.packed_conv import DEPTH, NARROW, WIDE, ConvLayer, pitch_of
from trt_vqgan.kernels.reference.conv2d import Mode

Form = Literal["half", "planes", "float"]
"""Of the result: float16 (B, H, W, pitch), float16 (B, C, H, W), float32 (B, H, W, pitch)."""

_FORMS: dict[Form, int] = {"half": 0, "planes": 1, "float": 2}
_STAGES = 3
_TILES = {"conv2d_128x128": (128, 128, 256), "conv2d_64x64": (64, 64, 128), "conv2d_128x16": (128, 16, 256)}
_MAX_PIXELS = 2**31 - 1 - 128


@dataclass(frozen=True, kw_only=True)
class ConvPlan:
    """One layer on pictures of one shape.

    Parameters
    ----------
    layer : packed by `trt_vqgan.kernels.packed_conv.pack_conv`; in half it reads float16 pictures, else float32 ones.
    batch, height, width : of the pictures that are read, with channels padded to `pitch_of` the layer's.
    mode : which pixels are made.
    form : of the result; "half" and "float" with a residual of the same.
    pitch : channels of a result's pixel, from the layer's outputs on; ignored for planes. Those of "half" are padded to
        a multiple of 8.
    multiprocessors : of the device.

    Raises
    ------
    ShapeError : no pixel to read or to make, too many, or a pitch below the channels.
    """

    layer: ConvLayer
    batch: int
    height: int
    width: int
    mode: Mode = "same"
    form: Form = "half"
    pitch: int
    multiprocessors: int

    def __post_init__(self) -> None:
        read, made = self.batch * self.height * self.width, self.pixels
        if min(read, made) < 1 or max(read, made) > _MAX_PIXELS:
            raise ShapeError(
                f"conv2d: found {self.batch} pictures of {self.width}x{self.height} pixels ({self.mode}), wanted 1 to "
                f"{_MAX_PIXELS} pixels"
            )
        wanted = pitch_of(self.layer.outputs) if self.form == "half" else self.layer.outputs
        if self.form != "planes" and (self.pitch < wanted or (self.form == "half" and self.pitch % 8)):
            raise ShapeError(f"conv2d: found a pitch of {self.pitch} for {self.layer.outputs} channels")

    @property
    def made_height(self) -> int:
        """Rows of a result."""
        return self._made(self.height)

    @property
    def made_width(self) -> int:
        """Columns of a result."""
        return self._made(self.width)

    def _made(self, side: int) -> int:
        return {"same": side, "halve": side // 2, "double": 2 * side}[self.mode]

    @property
    def pixels(self) -> int:
        """Pixels of all results."""
        return self.batch * self.made_height * self.made_width

    def launch(self, *, x: int, weights: int, bias: int, out: int, residual: int = 0) -> Launch:
        """Return the launch that does `trt_vqgan.kernels.reference.conv2d.conv2d`; addresses, 0 for no residual."""
        layer = self.layer
        geometry = (
            np.int32(self.pixels),
            np.int32(self.height),
            np.int32(self.width),
            np.int32(pitch_of(layer.channels)),
            np.int32(self.made_height),
            np.int32(self.made_width),
            np.int32(layer.outputs),
            np.int32(layer.side),
            np.int32(2 if self.mode == "halve" else 1),
            np.int32(0 if self.mode == "halve" else layer.side // 2),
            np.int32(self.mode == "double"),
            np.int32(layer.depth if layer.is_half else layer.padded_outputs),
            np.int32(_FORMS[self.form]),
            np.int32(self.pitch),
        )
        addresses = tuple(np.uint64(address) for address in (x, weights, bias, residual, out))
        if not layer.is_half:
            grid = (-(-self.pixels // 64), layer.padded_outputs // 64, 1)
            return Launch(
                kernel="conv2d_float",
                grid=grid,
                block=(256, 1, 1),
                shared_bytes=16 * 128 * 4,
                arguments=(*addresses, *geometry),
            )
        kernel = self._tile()
        tile_pixels, tile_channels, threads = _TILES[kernel]
        return Launch(
            kernel=kernel,
            grid=(-(-self.pixels // tile_pixels), layer.padded_outputs // tile_channels, 1),
            block=(threads, 1, 1),
            shared_bytes=_STAGES * (tile_pixels + tile_channels) * DEPTH * 2,
            arguments=(*addresses, *geometry),
        )

    def _tile(self) -> str:
        """Return the kernel with the largest tiles that are enough to keep the device busy."""
        if self.layer.padded_outputs == NARROW:
            return "conv2d_128x16"
        large = -(-self.pixels // 128) * (self.layer.padded_outputs // WIDE)
        return "conv2d_128x128" if large >= self.multiprocessors else "conv2d_64x64"
