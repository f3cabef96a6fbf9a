"""Fixed inputs for comparing a checkpoint with its bundle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.spec import AutoencoderSpec


def sample_map(spec: AutoencoderSpec, side: int) -> npt.NDArray[np.float32]:
    """Return a smooth input float32 (1, C, side, side) in [-1, 1], one-hot for segmentation; always the same."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    fields = []
    for _ in range(spec.in_channels):
        a, b, c, d = rng.uniform(-6, 6, 4)
        fields.append(np.sin(a * x + b * y + c) * np.cos(d * x * y))
    field = np.stack(fields).astype(np.float32)
    if spec.modality == "segmentation":
        field = (field.argmax(axis=0)[None] == np.arange(spec.in_channels)[:, None, None]).astype(np.float32)
    return field[None]
