"""Train the VQGAN of a condition map, labels or depth, resumable at any time.

python -m examples.landscapes.train_condition_vqgan labels SETS/train SETS/held-out RUN --steps 1500
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.landscapes.codebook import Codebook
from examples.landscapes.condition_maps import MAP_SIDE, MAPS, map_figures, map_loss, map_spec, map_tensor
from examples.landscapes.dataset import LandscapeSet, open_set
from examples.landscapes.published_layout import autoencoder_config, write_checkpoint
from examples.landscapes.train_vqgan import learning_rate
from examples.landscapes.training_state import Average, Run, Workers, load_state, save_state, sum_gradients
from examples.landscapes.vqgan_step import MicroBatch, latents_of, map_gradients, trained_parameters
from trt_vqgan.export.vqgan_modules import Autoencoder

CODEBOOK_FROM = 100
"""Step of the k-means start; before it the model is a plain autoencoder."""
RESTART_EVERY = 50
BATCH = 8
"""Maps a worker and step."""
CROP = 64
"""Side of the part of a map that is trained on: what convolutions learn is local, and it is a quarter of the work."""


class MapTraining:
    """Model, codebook, average and optimiser of one run."""

    def __init__(self, kind: str, run: Run, train: LandscapeSet) -> None:
        torch.manual_seed(0)
        self.kind, self.run, self.train = kind, run, train
        self.model = Autoencoder(map_spec(kind))
        self.codebook = Codebook(self.model.quantize.codebook.data)
        self.average = Average(self.model, decay=0.995)
        self.parameters = trained_parameters(self.model)
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3, betas=(0.9, 0.99))
        self.workers = Workers(2)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs."""
        return {
            "run": self.run.counters(),
            "model": self.model.state_dict(),
            "codebook": self.codebook.state(),
            "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.run.resume(state["run"])
        self.model.load_state_dict(state["model"])
        self.codebook.restore(state["codebook"])
        self.average.restore(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _maps(self, step: int) -> list[torch.Tensor]:
        rng = np.random.default_rng((2, step))
        maps = map_tensor(self.kind, self.train, rng.integers(len(self.train.kinds), size=2 * BATCH))
        flips = torch.from_numpy(rng.random(2 * BATCH) < 0.5)[:, None, None, None]
        maps = torch.where(flips, maps.flip(3), maps)
        corners = rng.integers(0, (MAP_SIDE - CROP) // 8 + 1, size=(2 * BATCH, 2)) * 8
        crops = [m[:, top : top + CROP, left : left + CROP] for m, (top, left) in zip(maps, corners, strict=True)]
        return list(torch.split(torch.stack(crops), BATCH))

    def advance(self, step: int) -> dict[str, float]:
        """Take one step and return its losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.run.steps, peak=1e-3, warmup=50)
        quantize = step >= CODEBOOK_FROM

        def work(maps: torch.Tensor) -> MicroBatch:
            loss = map_loss(self.kind, maps)
            return map_gradients(self.model, self.codebook, maps, loss, share=0.5, quantize=quantize)

        results = self.workers.map(work, self._maps(step))
        sum_gradients(self.parameters, [r.gradients for r in results])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        restarted = 0
        if quantize:
            latents = torch.cat([r.latents for r in results])
            self.codebook.update(latents)
            torch.manual_seed(step)
            if step % RESTART_EVERY == 0 and step < 0.9 * self.run.steps:
                restarted = self.codebook.restart_dead(latents)
        elif step + 1 == CODEBOOK_FROM:
            rows = np.random.default_rng(0).integers(len(self.train.kinds), size=256)
            self.codebook.start(latents_of(self.model, map_tensor(self.kind, self.train, rows)))
            self.average = Average(self.model, decay=0.995)
        self.average.update(self.model)
        return {
            "loss": sum(r.reconstruction for r in results) / 2,
            "commitment": sum(r.commitment for r in results) / 2,
            "restarted": float(restarted),
        }


@torch.inference_mode()
def measure(weights: dict[str, torch.Tensor], kind: str, held_out: LandscapeSet, *, count: int) -> dict[str, float]:
    """Return how well held-out maps come back through the averaged weights, and how many entries they use."""
    model = Autoencoder(map_spec(kind))
    model.load_state_dict(weights)
    target = map_tensor(kind, held_out, np.linspace(0, len(held_out.kinds) - 1, count).astype(int))
    codes = model.encode_codes(target)
    return {**map_figures(kind, model.decode_codes(codes), target), "held_out_used": float(len(torch.unique(codes)))}


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", choices=MAPS)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--measure-every", type=int, default=250)
    parser.add_argument("--measure-count", type=int, default=200)
    options = parser.parse_args()
    train, held_out = open_set(options.train), open_set(options.held_out)
    run = Run(options.run, steps=options.steps)
    training = MapTraining(options.map, run, train)
    if run.state_path.exists():
        training.restore(load_state(run.state_path))
    for step in run.iterate(lambda: save_state(run.state_path, training.state())):
        losses = training.advance(step)
        if (step + 1) % options.measure_every == 0:
            run.log(**losses, **measure(training.average.weights, options.map, held_out, count=options.measure_count))
        elif step % 25 == 0:
            run.log(**losses)
    if run.finished:
        name = f"landscape_{options.map}"
        config = autoencoder_config(map_spec(options.map))
        write_checkpoint(options.run / "checkpoint", name, config, training.average.weights, step=run.step)
        run.log(**measure(training.average.weights, options.map, held_out, count=len(held_out.kinds)))


if __name__ == "__main__":
    main()
