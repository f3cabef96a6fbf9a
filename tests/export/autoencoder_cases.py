"""Small VQGANs of every variant, with random weights, for the tests of modules and graphs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.vqgan_modules import Autoencoder
from trt_vqgan.spec import AutoencoderSpec

BASE = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=32,  # a GroupNorm group is one channel
    channel_multipliers=(1, 1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    resolution=32,
    z_channels=16,
    code_dim=24,
    codebook_size=50,
)
CASES = {
    "base": BASE,
    "resampling without convolution": dataclasses.replace(BASE, resample_with_conv=False),
    "convolution shortcut": dataclasses.replace(BASE, conv_shortcut=True),
    "f8": dataclasses.replace(
        BASE,
        base_channels=64,
        channel_multipliers=(1, 2, 2, 4),
        num_res_blocks=2,
        attention_resolutions=(4, 8),
        z_channels=4,
        code_dim=4,
    ),
    "gumbel": dataclasses.replace(BASE, quantizer="gumbel", z_channels=24),
    "no attention": dataclasses.replace(BASE, use_attention=False),
    "one level": dataclasses.replace(BASE, channel_multipliers=(2,), attention_resolutions=(32,), resolution=32),
    "labels": dataclasses.replace(BASE, in_channels=19, out_channels=19, modality="segmentation"),
}


def make_autoencoder(spec: AutoencoderSpec, seed: int = 0) -> Autoencoder:
    """Return a reference VQGAN with random weights, norms included (their default of 1 and 0 would hide a swap)."""
    torch.manual_seed(seed)
    model = Autoencoder(spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def arrays_of(model: Autoencoder) -> dict[str, NDArray[np.float32]]:
    """Return the weights under their published keys."""
    return {key: value.detach().numpy() for key, value in model.state_dict().items()}


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """Return a CPU session on two threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, value: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the only output for the only input."""
    opened = session(model)
    output: NDArray[np.float32] = opened.run(None, {opened.get_inputs()[0].name: value})[0]
    return output


def golden_parts(folder: Path, part: str) -> tuple[AutoencoderSpec, dict[str, NDArray[np.float32]]]:
    """Return a checkpoint's VQGAN, "first_stage" or "condition", and its weights under their published keys."""
    checkpoint = open_checkpoint(folder)
    spec = checkpoint.spec.autoencoder
    if part == "condition":
        assert checkpoint.spec.condition is not None
        assert checkpoint.spec.condition.autoencoder is not None
        spec = checkpoint.spec.condition.autoencoder
    prefix = f"{part}."
    weights = checkpoint.weights
    return spec, {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}


def without_quant_conv(
    spec: AutoencoderSpec, weights: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Return weights whose quant_conv passes latents through.

    The golden Gumbel codes are argmax proj(encoder(x)): they were taken without quant_conv, which the published
    ``VQModel.encode`` (inherited by GumbelVQ) and ``GumbelVQ.encode_to_prequant`` apply before the quantizer.
    """
    identity = np.eye(spec.code_dim, dtype=np.float32)[:, :, None, None]
    return {**weights, "quant_conv.weight": identity, "quant_conv.bias": np.zeros(spec.code_dim, np.float32)}


def to_input(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Return float32 (B, 3, H, W) in [-1, 1] for pictures uint8 (B, H, W, 3)."""
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1))


def to_pictures(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return uint8 (B, H, W, 3), truncated as published."""
    return ((pixels + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def grey_levels(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> int:
    """Return the largest difference."""
    return int(np.abs(found.astype(int) - wanted.astype(int)).max())


def condition_input(name: str, expected: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what the condition's VQGAN reads for a golden ``cond_input``."""
    if name == "segmentation":
        return np.eye(182, dtype=np.float32)[expected].transpose(0, 3, 1, 2)
    return expected.astype(np.float32)
