"""Losses of a VQGAN: pixel terms that need no pretrained network, and a patch discriminator."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from examples.landscapes.light import ROCK, SUN

SUN_WEIGHT = 8.0
"""Weight of pixels of the sun's disc and its rim: a thousandth of all pixels, and the first that a picture lacks."""
ROCK_WEIGHT = 1.5


def pixel_weights(labels: torch.Tensor) -> torch.Tensor:
    """Return how much each pixel counts, float32 (B, 1, H, W), for labels uint8 (B, H, W)."""
    sun = F.max_pool2d((labels == SUN).float()[:, None], 5, stride=1, padding=2)
    return 1 + (SUN_WEIGHT - 1) * sun + (ROCK_WEIGHT - 1) * (labels == ROCK).float()[:, None] * (1 - sun)


def reconstruction_loss(
    output: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return L1 + gradient L1 + pooled L1 + MSE between pictures float32 (B, C, H, W) in [-1, 1], a scalar.

    The gradient term asks for edges where the plain term is content with their mean; the pooled term for the right
    colour of whole regions. Errors are first multiplied by `weights` (B, 1, H, W), where given.
    """
    error = output - target
    if weights is not None:
        error = error * weights
    loss = error.abs().mean() + 2.0 * error.square().mean()
    loss = loss + error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    for side in (4, 8):
        loss = loss + 0.5 * F.avg_pool2d(error, side).abs().mean()
    return loss


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) to one realness a patch of 70 pixels (Isola et al. 2017), and the features on the way."""

    def __init__(self, *, channels: int = 3, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(channels, width, 4, stride=2, padding=1),
                nn.Sequential(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.GroupNorm(8, 2 * width)),
                nn.Sequential(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.GroupNorm(8, 4 * width)),
                nn.Sequential(nn.Conv2d(4 * width, 4 * width, 4, padding=1), nn.GroupNorm(8, 4 * width)),
            ]
        )
        self.head = nn.Conv2d(4 * width, 1, 4, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return realness (B, 1, h, w) and each layer's features."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features


def hinge_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return the discriminator's hinge loss for realness of real and of made pictures, a scalar."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def output_gradient(
    output: torch.Tensor,
    target: torch.Tensor,
    discriminator: PatchDiscriminator | None,
    *,
    adversarial: float,
    matching: float,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of all losses at the decoder's output (B, C, H, W), and the reconstruction loss.

    The adversarial and the feature-matching gradient are scaled to `adversarial` and `matching` times the norm of
    the reconstruction gradient, so that no term can take over whatever the discriminator does. Without a
    discriminator, or with both weights 0, it is the reconstruction gradient alone.
    """
    leaf = output.detach().float().requires_grad_()
    loss = reconstruction_loss(leaf, target, weights)
    (gradient,) = torch.autograd.grad(loss, leaf)
    if discriminator is None or adversarial == matching == 0:
        return gradient, loss.detach()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        realness, features = discriminator(leaf)
        with torch.no_grad():
            _, wanted = discriminator(target)
    match = sum(((a.float() - b.float()).abs().mean() for a, b in zip(features, wanted, strict=True)), torch.zeros(()))
    (from_realness,) = torch.autograd.grad(-realness.float().mean(), leaf, retain_graph=True)
    (from_features,) = torch.autograd.grad(match, leaf)
    norm = gradient.norm()
    gradient = gradient + adversarial * from_realness * (norm / from_realness.norm().clamp_min(1e-12))
    gradient = gradient + matching * from_features * (norm / from_features.norm().clamp_min(1e-12))
    return gradient, loss.detach()
