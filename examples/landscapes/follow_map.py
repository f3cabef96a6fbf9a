"""Does a model follow its map? A small network, trained on renders to see labels or depth, looks at unselected samples.

    python -m examples.landscapes.follow_map labels BUNDLE sets/train sets/held-out --count 100

Labels: share of pixels whose seen label is the map's, next to the maps of other samples. Depth: Spearman's rank
correlation of seen and given disparity within a picture, over all pixels and over those that are not sky.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from examples.landscapes.condition_maps import MAPS, disparity
from examples.landscapes.dataset import LandscapeSet, open_set
from examples.landscapes.light import CLASSES
from examples.landscapes.vqgan_step import to_tensor
from trt_vqgan.runtime.pipeline import Pipeline, load

STEPS, BATCH = 600, 24
STRIDE = 4
"""Pixels between two places that are judged, along each axis."""


def judged(maps: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return maps (B, H, W) at the places that are judged, (B, H/4, W/4)."""
    return maps[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def targets(kind: str, landscapes: LandscapeSet, rows: NDArray[np.integer]) -> NDArray[np.generic]:
    """Return labels uint8 or disparity float32 (B, H, W) of a set's rows."""
    return np.asarray(landscapes.labels[rows]) if kind == "labels" else disparity(np.asarray(landscapes.depth[rows]))


class Eye(nn.Module):
    """Pictures float32 (B, 3, H, W) to what is seen, float32 (B, channels, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()
            )

        self.fine = nn.Sequential(layer(3, 24, 2), layer(24, 48, 2), layer(48, 48))
        self.coarse = nn.Sequential(layer(48, 64, 2), layer(64, 96, 2), layer(96, 96), layer(96, 48))
        self.out = nn.Sequential(layer(96, 64), nn.Conv2d(64, channels, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 (B, channels, H/4, W/4)."""
        fine = self.fine(images)
        coarse = F.interpolate(self.coarse(fine), size=fine.shape[2:], mode="bilinear")
        seen: torch.Tensor = self.out(torch.cat([fine, coarse], 1))
        return seen


def train_eye(kind: str, train: LandscapeSet) -> Eye:
    """Return a network that sees labels or disparity in pictures, trained on renders with a little noise."""
    torch.manual_seed(0)
    eye = Eye(len(CLASSES) if kind == "labels" else 1)
    optimizer = torch.optim.AdamW(eye.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = np.sort(rng.integers(len(train.images), size=BATCH))
        x = to_tensor(train.images[rows])
        seen = eye(x + 0.05 * torch.randn_like(x))
        wanted = torch.from_numpy(np.ascontiguousarray(judged(targets(kind, train, rows))))
        if kind == "labels":
            loss = F.cross_entropy(seen, wanted.long())
        else:
            loss = F.l1_loss(seen[:, 0], wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return eye.eval()


@torch.inference_mode()
def look(kind: str, eye: Eye, images: NDArray[np.uint8]) -> NDArray[np.generic]:
    """Return labels int64 or disparity float32 (B, H/4, W/4) that are seen in pictures uint8 (B, H, W, 3)."""
    seen = torch.cat([eye(to_tensor(part)) for part in np.array_split(images, max(len(images) // 20, 1))])
    return np.asarray(seen.argmax(1).numpy() if kind == "labels" else seen[:, 0].numpy())


def rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of two vectors, equal values sharing their mean rank."""

    def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(count) - (count + 1) / 2)[place], np.float64)

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def compare(kind: str, seen: NDArray[np.generic], maps: NDArray[np.generic]) -> str:
    """Return how far what is seen (B, h, w) agrees with maps of the same shape, for people."""
    if kind == "labels":
        return f"{float((seen == maps).mean()):.3f} of the pixels"
    pairs = [(s.ravel().astype(np.float64), m.ravel().astype(np.float64)) for s, m in zip(seen, maps, strict=True)]
    everywhere = [rank_correlation(s, m) for s, m in pairs]
    ground = [rank_correlation(s[m > -1], m[m > -1]) for s, m in pairs if (m > -1).sum() > 50]
    return f"rank correlation {np.mean(everywhere):.3f}, without the sky {np.mean(ground):.3f}"


def draw(pipe: Pipeline, kind: str, maps: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return a picture for each map, uint8 (B, H, W, 3), seed 0."""
    if kind == "labels":
        return np.asarray(pipe.generate(segmentation=maps.astype(np.int64), seed=0).images)
    return np.asarray(pipe.generate(depth=maps[:, None], seed=0).images)


def main() -> None:
    """Parse the command line, train the network, sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", choices=MAPS)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    train, held_out = open_set(options.train), open_set(options.held_out)
    eye = train_eye(options.map, train)
    rows = np.linspace(0, len(held_out.kinds) - 1, options.count).astype(int)
    maps = targets(options.map, held_out, rows)
    given = judged(maps)
    renders = look(options.map, eye, np.asarray(held_out.images[rows]))
    print(f"held-out renders, as this network sees them: {compare(options.map, renders, given)}")
    with load(options.bundle) as pipe:
        made = draw(pipe, options.map, maps)
    seen = look(options.map, eye, made)
    print(f"{len(made)} samples against their maps: {compare(options.map, seen, given)}")
    others = np.roll(given, 1 + len(given) // 2, axis=0)
    print(f"{len(made)} samples against the maps of others: {compare(options.map, seen, others)}")


if __name__ == "__main__":
    main()
