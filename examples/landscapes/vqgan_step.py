"""One micro-batch through a VQGAN in training: straight-through quantisation and gradients, safe to run on a thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from examples.landscapes.codebook import Codebook
from examples.landscapes.losses import PatchDiscriminator, hinge_loss, output_gradient
from trt_vqgan.export.vqgan_modules import Autoencoder

COMMITMENT = 0.25
"""Weight of the latents' distance to their entries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Gradients and figures of one micro-batch.

    Attributes
    ----------
    gradients, discriminator_gradients : of each parameter, in the order given; the second empty without discriminator.
    latents : float32 (n, D).
    codes : int64 (n,).
    reconstruction, commitment, discrimination : losses.
    """

    gradients: tuple[torch.Tensor, ...]
    discriminator_gradients: tuple[torch.Tensor, ...]
    latents: torch.Tensor
    codes: torch.Tensor
    reconstruction: float
    commitment: float
    discrimination: float


def trained_parameters(model: Autoencoder) -> list[nn.Parameter]:
    """Return all parameters but the codebook, which moves by averages."""
    return [p for name, p in model.named_parameters() if not name.startswith("quantize.")]


def quantized_forward(
    model: Autoencoder, codebook: Codebook, images: torch.Tensor, *, quantize: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return output (B, C, H, W), commitment loss, latents (n, D) and codes (n,) for pictures float32 (B, C, H, W).

    Convolutions run in bfloat16 (contiguous: channels_last would send GroupNorm's backward to a slow kernel), latents
    and everything after the output in float32. Autocast's weight cache is off, since threads share the weights.
    """
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        z = model.quant_conv(model.encoder(images))
    z = z.float()
    flat = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    codes = codebook.nearest(flat)
    if quantize:
        nearest = codebook.entries[codes].view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        commitment = (z - nearest).square().mean()
        passed = z + (nearest - z).detach()
    else:
        commitment, passed = z.sum() * 0, z
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        output = model.decoder(model.post_quant_conv(passed))
    return output.float(), commitment, flat, codes


def picture_gradients(
    model: Autoencoder,
    codebook: Codebook,
    images: torch.Tensor,
    weights: torch.Tensor | None,
    *,
    share: float,
    discriminator: PatchDiscriminator | None,
    adversarial: float,
    matching: float,
    quantize: bool = True,
) -> MicroBatch:
    """Return the gradients of one micro-batch of pictures, weighted by its `share` of the step.

    `images` is float32 (B, 3, H, W), `weights` (B, 1, H, W) how much each pixel counts.
    """
    output, commitment, latents, codes = quantized_forward(model, codebook, images, quantize=quantize)
    gradient, loss = output_gradient(
        output, images, discriminator, adversarial=adversarial, matching=matching, weights=weights
    )
    gradients = torch.autograd.grad(
        [output, commitment], trained_parameters(model), [share * gradient, torch.tensor(share * COMMITMENT)]
    )
    from_discriminator: tuple[torch.Tensor, ...] = ()
    discrimination = 0.0
    if discriminator is not None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            real, _ = discriminator(images)
            fake, _ = discriminator(output.detach())
        hinge = hinge_loss(real, fake)
        discrimination = float(hinge.detach())
        from_discriminator = torch.autograd.grad(share * hinge, list(discriminator.parameters()))
    return MicroBatch(
        gradients=gradients,
        discriminator_gradients=from_discriminator,
        latents=latents,
        codes=codes,
        reconstruction=float(loss),
        commitment=float(commitment.detach()),
        discrimination=discrimination,
    )


def map_gradients(
    model: Autoencoder,
    codebook: Codebook,
    inputs: torch.Tensor,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    share: float,
    quantize: bool = True,
) -> MicroBatch:
    """Return the gradients of one micro-batch of condition maps, with `loss_of` (output) as the only other loss."""
    output, commitment, latents, codes = quantized_forward(model, codebook, inputs, quantize=quantize)
    loss = loss_of(output)
    gradients = torch.autograd.grad(share * (loss + COMMITMENT * commitment), trained_parameters(model))
    return MicroBatch(
        gradients=gradients,
        discriminator_gradients=(),
        latents=latents,
        codes=codes,
        reconstruction=float(loss.detach()),
        commitment=float(commitment.detach()),
        discrimination=0.0,
    )


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return pictures uint8 (B, H, W, 3) as float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def psnr_db(output: torch.Tensor, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each picture, dB (B,), of output (B, 3, H, W) clipped and made uint8."""
    pixels = ((output.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy().astype(np.float64)
    error = np.square(pixels - images).mean((1, 2, 3))
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(error, 1e-12)))


@torch.no_grad()
def latents_of(model: Autoencoder, images: torch.Tensor) -> torch.Tensor:
    """Return latents float32 (n, D) of pictures float32 (B, C, H, W), computed in float32."""
    z = F.conv2d(model.encoder(images), model.quant_conv.weight, model.quant_conv.bias)
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
