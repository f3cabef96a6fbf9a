"""Condition maps as a VQGAN reads them: one-hot labels, and disparity scaled to [−1, 1] a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from examples.landscapes.dataset import LandscapeSet
from examples.landscapes.light import CLASSES
from trt_vqgan.spec import AutoencoderSpec

MAPS = ("labels", "depth")
MAP_SIDE = 128
"""A map is as large as its picture, and so is its grid of codes: larger pictures take windows of both side by side."""


def map_spec(kind: str) -> AutoencoderSpec:
    """Return the condition VQGAN of "labels" or "depth": f8 over MAP_SIDE pixels, 16x16 codes of 512 entries."""
    channels = len(CLASSES) if kind == "labels" else 1
    return AutoencoderSpec(
        quantizer="nearest",
        in_channels=channels,
        out_channels=channels,
        base_channels=64,  # with 32, a group of GroupNorm(32) would be one channel, nearly constant on label maps
        channel_multipliers=(1, 1, 1, 1),
        num_res_blocks=1,
        attention_resolutions=(),
        resolution=MAP_SIDE,
        z_channels=32,
        code_dim=32,
        codebook_size=512,
        modality="segmentation" if kind == "labels" else "depth",
    )


def disparity(depth: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return 1/depth scaled to [−1, 1] a picture, float32 (B, H, W); the sky (depth inf) is its least value, −1.

    The published depth models read min-max scaled inverse depth as well.
    """
    inverse = 1 / np.asarray(depth, np.float32)
    low, high = inverse.min((1, 2), keepdims=True), inverse.max((1, 2), keepdims=True)
    # the fourth root spreads the far ground, where most of a landscape's shape is
    scaled = ((inverse - low) / np.maximum(high - low, 1e-12)) ** np.float32(0.25)
    return np.asarray(scaled * 2 - 1, np.float32)


def map_tensor(kind: str, landscapes: LandscapeSet, rows: NDArray[np.integer]) -> torch.Tensor:
    """Return maps float32 (B, C, MAP_SIDE, MAP_SIDE) of a set's rows."""
    if kind == "labels":
        labels = torch.from_numpy(np.asarray(landscapes.labels[rows])).long()
        return F.one_hot(labels, len(CLASSES)).permute(0, 3, 1, 2).float().contiguous()
    return torch.from_numpy(disparity(np.asarray(landscapes.depth[rows])))[:, None]


def map_loss(kind: str, target: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the loss of a reconstruction (B, C, H, W) of `target`: cross-entropy for labels, L1 for disparity."""
    if kind == "labels":
        wanted = target.argmax(1)
        return lambda output: F.cross_entropy(output, wanted)

    def of_depth(output: torch.Tensor) -> torch.Tensor:
        error = output - target
        edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
        return 4 * (error.abs().mean() + 0.5 * edges)

    return of_depth


def map_figures(kind: str, output: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Return how well maps come back: pixel accuracy of labels, or mean absolute error of disparity (range 2)."""
    if kind == "labels":
        return {"pixel_accuracy": float((output.argmax(1) == target.argmax(1)).float().mean())}
    return {"disparity_error": float((output - target).abs().mean())}
