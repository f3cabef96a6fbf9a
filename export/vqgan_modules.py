"""Reference VQGAN in PyTorch with the published key layout: the oracle for tests and for ``verify``.

Source: the paper's section 3.1 and appendix (encoder, decoder, vector quantisation); for the Gumbel quantizer Jang et
al. 2016. Tensors are contiguous NCHW float32: in channels_last, torch's own CPU GroupNorm takes its statistics in one
pass and is wrong on nearly constant channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trt_vqgan.errors import SpecError
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.spec import AutoencoderSpec

NORM_GROUPS = 32
NORM_EPSILON = 1e-6


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPSILON)


class ResidualBlock(nn.Module):
    """(B, ``inputs``, H, W) to (B, ``outputs``, H, W): two times norm, swish and 3x3 convolution, and a shortcut.

    Where the widths differ the shortcut is a 1x1 convolution, or a 3x3 one with ``conv_shortcut``.
    """

    def __init__(self, inputs: int, outputs: int, *, conv_shortcut: bool) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs and conv_shortcut:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 3, padding=1)
        elif inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, outputs, H, W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        if hasattr(self, "conv_shortcut"):
            x = self.conv_shortcut(x)
        elif hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        added: torch.Tensor = x + y
        return added


class AttentionBlock(nn.Module):
    """Self-attention with one head over the positions of (B, C, H, W), added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, C, H, W)."""
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))
        scores = q.transpose(1, 2) @ k * q.shape[1] ** -0.5  # (B, queries, keys)
        out = v @ torch.softmax(scores, dim=2).transpose(1, 2)
        added: torch.Tensor = x + self.proj_out(out.reshape(x.shape))
        return added


class Downsample(nn.Module):
    """Half the height and width: a stride-2 convolution padded right and bottom by one, or the mean of 2x2 pixels."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, C, H / 2, W / 2)."""
        if hasattr(self, "conv"):
            y: torch.Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
            return y
        return F.avg_pool2d(x, 2)


class Upsample(nn.Module):
    """Twice the height and width by the nearest pixel, then a 3x3 convolution unless ``with_conv`` is false."""

    def __init__(self, channels: int, *, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, C, 2 H, 2 W)."""
        y = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if hasattr(self, "conv"):
            y = self.conv(y)
        return y


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention where the level carries it."""

    def __init__(self, spec: AutoencoderSpec, inputs: int, outputs: int, *, blocks: int, side: int) -> None:
        super().__init__()
        attends = spec.use_attention and side in spec.attention_resolutions
        self.block = nn.ModuleList(
            ResidualBlock(inputs if i == 0 else outputs, outputs, conv_shortcut=spec.conv_shortcut)
            for i in range(blocks)
        )
        self.attn = nn.ModuleList(AttentionBlock(outputs) for _ in range(blocks if attends else 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, outputs, H', W'), resampled where this level is followed by another."""
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, spec: AutoencoderSpec, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, conv_shortcut=spec.conv_shortcut)
        if spec.use_attention:
            self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels, conv_shortcut=spec.conv_shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, C, h, w)."""
        x = self.block_1(x)
        if hasattr(self, "attn_1"):
            x = self.attn_1(x)
        y: torch.Tensor = self.block_2(x)
        return y


class Encoder(nn.Module):
    """Picture float32 (B, in_channels, H, W) to float32 (B, z_channels, h, w)."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        widths = [spec.base_channels * mult for mult in spec.channel_multipliers]
        self.conv_in = nn.Conv2d(spec.in_channels, spec.base_channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, side = spec.base_channels, spec.resolution
        for i, outputs in enumerate(widths):
            level = Level(spec, width, outputs, blocks=spec.num_res_blocks, side=side)
            width = outputs
            if i + 1 < len(widths):
                level.add_module("downsample", Downsample(width, with_conv=spec.resample_with_conv))
                side //= 2
            self.down.append(level)
        self.mid = Middle(spec, width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, spec.z_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, z_channels, h, w)."""
        x = self.conv_in(x.contiguous())
        for level in self.down:
            x = level(x)
        z: torch.Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return z


class Decoder(nn.Module):
    """Latents float32 (B, z_channels, h, w) to a picture float32 (B, out_channels, H, W)."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        widths = [spec.base_channels * mult for mult in spec.channel_multipliers]
        width, side = widths[-1], spec.latent_size
        self.conv_in = nn.Conv2d(spec.z_channels, width, 3, padding=1)
        self.mid = Middle(spec, width)
        levels: list[Level] = []
        for i, outputs in reversed(list(enumerate(widths))):
            level = Level(spec, width, outputs, blocks=spec.num_res_blocks + 1, side=side)
            width = outputs
            if i > 0:
                level.add_module("upsample", Upsample(width, with_conv=spec.resample_with_conv))
                side *= 2
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))  # up.0 is the full resolution, which runs last
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, spec.out_channels, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, out_channels, H, W)."""
        x = self.mid(self.conv_in(z.contiguous()))
        for level in reversed(self.up):
            x = level(x)
        pixels: torch.Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return pixels


class NearestQuantizer(nn.Module):
    """A codebook of which the nearest entry is taken."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.codebook_size, spec.code_dim)

    @property
    def codebook(self) -> torch.Tensor:
        """Float32 (N, D)."""
        return self.embedding.weight

    def codes(self, z: torch.Tensor) -> torch.Tensor:
        """Return int64 (B, h, w) for latents float32 (B, D, h, w), as kernels/reference/nearest_code.py defines."""
        batch, dim, height, width = z.shape
        rows = z.permute(0, 2, 3, 1).reshape(-1, dim)
        found = nearest_code(rows.detach().numpy(), self.codebook.detach().numpy())
        return torch.from_numpy(found).reshape(batch, height, width)


class GumbelQuantizer(nn.Module):
    """A codebook of which the entry with the largest logit is taken."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(spec.code_dim, spec.codebook_size, 1)
        self.embed = nn.Embedding(spec.codebook_size, spec.code_dim)

    @property
    def codebook(self) -> torch.Tensor:
        """Float32 (N, D)."""
        return self.embed.weight

    def codes(self, logits: torch.Tensor) -> torch.Tensor:
        """Return int64 (B, h, w) for logits float32 (B, N, h, w): the first of the largest, without noise."""
        return torch.from_numpy(logits.detach().numpy().argmax(axis=1))  # NumPy promises the first, torch does not


class Autoencoder(nn.Module):
    """The published VQModel or GumbelVQ, for evaluation.

    Parameters
    ----------
    spec : its sizes.

    Raises
    ------
    SpecError
        For a Gumbel quantizer whose projection can't read the latents (z_channels differs from code_dim).
    """

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        if spec.quantizer == "gumbel" and spec.gumbel_input == "quant_conv" and spec.z_channels != spec.code_dim:
            raise SpecError(
                f"Gumbel quantizer: z_channels {spec.z_channels} and code_dim {spec.code_dim} differ, wanted equal; "
                "the published projection reads z_channels of the quant_conv's code_dim outputs"
            )
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.quant_conv = nn.Conv2d(spec.z_channels, spec.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(spec.code_dim, spec.z_channels, 1)
        self.quantize = GumbelQuantizer(spec) if spec.quantizer == "gumbel" else NearestQuantizer(spec)

    @torch.inference_mode()
    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        """Return what codes are chosen by, for pictures float32 (B, in_channels, H, W) in [-1, 1].

        Latents float32 (B, D, h, w), or for a Gumbel quantizer logits float32 (B, N, h, w).
        """
        z: torch.Tensor = self.encoder(images)
        if not isinstance(self.quantize, GumbelQuantizer):
            z = self.quant_conv(z)
        elif self.spec.gumbel_input == "quant_conv":
            z = self.quantize.proj(self.quant_conv(z))
        else:
            z = self.quantize.proj(z)
        return z

    @torch.inference_mode()
    def encode_codes(self, images: torch.Tensor) -> torch.Tensor:
        """Return codes int64 (B, h, w) for pictures float32 (B, in_channels, H, W) in [-1, 1]."""
        return self.quantize.codes(self.encode_latents(images))

    @torch.inference_mode()
    def decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Return pixels float32 (B, out_channels, H, W), about [-1, 1] and not clipped, for codes int64 (B, h, w)."""
        z = F.embedding(codes, self.quantize.codebook).permute(0, 3, 1, 2)
        pixels: torch.Tensor = self.decoder(self.post_quant_conv(z.contiguous()))
        return pixels


def load_autoencoder(spec: AutoencoderSpec, weights: Mapping[str, Any], prefix: str = "") -> Autoencoder:
    """Return the reference VQGAN in eval mode with ``weights`` (keys ``prefix`` + published key), float32 on the CPU.

    Raises
    ------
    RuntimeError
        For missing or extra keys or wrong shapes (from torch; reading a checkpoint has checked them before).
    """
    model = Autoencoder(spec)
    state = {
        key.removeprefix(prefix): torch.as_tensor(weights[key]).to(torch.float32).contiguous()
        for key in weights
        if key.startswith(prefix)
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
