"""Does a class model follow its class? A small classifier, trained on renders, is asked about unselected samples.

python -m examples.landscapes.follow_class RUN/checkpoint sets/train sets/held-out --per-class 40
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from examples.landscapes.dataset import open_set
from examples.landscapes.sample_sheet import load_model, pictures, sample
from examples.landscapes.terrain import KINDS
from examples.landscapes.train_vqgan import PICTURE_SPEC
from examples.landscapes.vqgan_step import to_tensor

STEPS, BATCH = 500, 64


def shrink(images: np.ndarray) -> torch.Tensor:
    """Return pictures uint8 (B, H, W, 3) as float32 (B, 3, H/4, W/4): a kind shows without detail."""
    return F.avg_pool2d(to_tensor(images), 4)


def train_classifier(images: np.ndarray, kinds: np.ndarray) -> nn.Module:
    """Return a classifier of kinds, trained on shrunk renders with their mirror images and a little noise."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, len(KINDS)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = rng.integers(len(images), size=BATCH)
        x = shrink(images[rows])
        x = torch.where(torch.from_numpy(rng.random(BATCH) < 0.5)[:, None, None, None], x.flip(3), x)
        x = x + 0.05 * torch.randn_like(x)
        loss = F.cross_entropy(model(x), torch.from_numpy(kinds[rows].astype(np.int64)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def confusion(model: nn.Module, images: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return int64 (kinds, kinds): how often pictures of a kind (row) are taken for another (column)."""
    found = model(shrink(images)).argmax(1).numpy()
    table = np.zeros((len(KINDS), len(KINDS)), np.int64)
    np.add.at(table, (kinds, found), 1)
    return table


def main() -> None:
    """Parse the command line, train the classifier, sample and print accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--per-class", type=int, default=40)
    options = parser.parse_args()
    train, held_out = open_set(options.train), open_set(options.held_out)
    classifier = train_classifier(train.images, train.kinds)
    renders = confusion(classifier, np.asarray(held_out.images), np.asarray(held_out.kinds))
    gpt, vqgan = load_model(options.checkpoint)
    kinds = np.repeat(np.arange(len(KINDS)), options.per_class)
    codes = sample(
        gpt,
        torch.from_numpy(kinds)[:, None],
        count=PICTURE_SPEC.latent_size**2,
        top_k=200,
        top_p=0.95,
        generator=torch.Generator().manual_seed(0),
    )
    made = np.concatenate([pictures(vqgan, part) for part in torch.split(codes, 20)])
    samples = confusion(classifier, made, kinds)
    for name, table in (("held-out renders", renders), ("samples", samples)):
        print(f"{name}: {np.trace(table) / table.sum():.3f} of {table.sum()} classified as what they are")
        print(table)


if __name__ == "__main__":
    main()
