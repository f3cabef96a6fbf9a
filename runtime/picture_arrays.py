"""Pictures given as arrays, as the encoder reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.autoencoder import from_uint8
from trt_vqgan.runtime.buffers import host_array
from trt_vqgan.runtime.fitting import Fit, fit_picture
from trt_vqgan.spec import AutoencoderSpec

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


def picture_maps(
    images: npt.ArrayLike, spec: AutoencoderSpec, *, size: tuple[int, int] | None = None, fit: Fit = "crop"
) -> FloatArray:
    """Return pictures as float32 (B, C, H, W) in [-1, 1].

    Parameters
    ----------
    images : uint8 (B, H, W, C) or (H, W, C); or float (B, C, H, W) in [-1, 1], taken as it is, float32 without a
        copy.
    size : height and width that uint8 pictures are fitted to; None leaves them as they are.

    Raises
    ------
    ShapeError : another shape or dtype.
    """
    array = host_array(images, "images")
    channels = spec.in_channels
    if array.dtype == np.uint8:
        pictures = uint8_pictures(array, channels)
        if size is not None:
            pictures = np.stack([fit_picture(picture, *size, fit=fit) for picture in pictures])
        return from_uint8(pictures)
    if array.dtype.kind == "f" and array.ndim == 4:
        return array.astype(np.float32, copy=False)
    raise ShapeError(
        f"images: found {array.dtype} {array.shape}, wanted uint8 (B, H, W, {channels}) "
        f"or float32 (B, {channels}, H, W)"
    )


def uint8_pictures(images: npt.ArrayLike, channels: int, name: str = "images") -> ImageArray:
    """Return uint8 (B, H, W, C) of uint8 (B, H, W, C) or (H, W, C); anything else is a ShapeError."""
    array = host_array(images, name)
    if array.dtype == np.uint8 and array.ndim == 3:
        array = array[None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != channels or 0 in array.shape:
        raise ShapeError(f"{name}: found {array.dtype} {array.shape}, wanted uint8 (B, H, W, {channels})")
    return array
