"""Train the VQGAN of pictures, or go on with one, resumable at any time.

    python -m examples.landscapes.train_vqgan SETS/train SETS/held-out RUN --steps 4000 --start CHECKPOINT

`RUN/state.pt` is written every two minutes and on SIGTERM; the same command goes on from it. At the end, or with
`--export`, the averaged weights are written to `RUN/checkpoint` in the published layout.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from examples.landscapes.codebook import Codebook
from examples.landscapes.dataset import LandscapeSet, open_set
from examples.landscapes.losses import PatchDiscriminator, pixel_weights
from examples.landscapes.published_layout import autoencoder_config, read_weights, write_checkpoint
from examples.landscapes.training_state import Average, Run, Workers, load_state, save_state, sum_gradients
from examples.landscapes.vqgan_step import (
    MicroBatch,
    latents_of,
    picture_gradients,
    psnr_db,
    to_tensor,
    trained_parameters,
)
from trt_vqgan.export.vqgan_modules import Autoencoder
from trt_vqgan.spec import AutoencoderSpec

PICTURE_SPEC = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=64,
    channel_multipliers=(1, 1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(16,),
    resolution=128,
    z_channels=32,
    code_dim=32,
    codebook_size=1024,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Numbers of the training.

    Attributes
    ----------
    learning_rate, warmup : peak of the cosine schedule and steps to reach it.
    crops, crop_side : 64-pixel crops a step, for one worker.
    whole : whole pictures a step, for the other worker: attention and GroupNorm must see full pictures too.
    adversarial, matching : norms of those gradients relative to the reconstruction gradient.
    adversary_from, adversary_ramp : step at which they enter, and steps over which they grow.
    codebook_from : step of the k-means start (0 when going on from a checkpoint).
    restart_every : steps between restarts of dead entries; there are none in the last tenth.
    """

    learning_rate: float = 4e-4
    warmup: int = 100
    crops: int = 8
    crop_side: int = 64
    whole: int = 2
    adversarial: float = 0.4
    matching: float = 0.6
    adversary_from: int = 300
    adversary_ramp: int = 300
    codebook_from: int = 0
    restart_every: int = 50
    average_decay: float = 0.999


def learning_rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Return the rate at a step: linear warm-up, then a cosine down to a thirtieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return peak * (1 / 30 + (1 - 1 / 30) * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


class VqganTraining:
    """Model, discriminator, codebook, averages and optimisers of one run."""

    def __init__(self, spec: AutoencoderSpec, recipe: Recipe, run: Run, train: LandscapeSet) -> None:
        torch.manual_seed(0)
        self.spec, self.recipe, self.run, self.train = spec, recipe, run, train
        self.model = Autoencoder(spec)
        self.discriminator = PatchDiscriminator()
        self.codebook = Codebook(self.model.quantize.codebook.data)
        self.average = Average(self.model, decay=recipe.average_decay)
        self.parameters = trained_parameters(self.model)
        self.adversary = list(self.discriminator.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=recipe.learning_rate, betas=(0.5, 0.9))
        self.adversary_optimizer = torch.optim.Adam(self.adversary, lr=recipe.learning_rate, betas=(0.5, 0.9))
        self.workers = Workers(2)
        self.chosen = torch.zeros(spec.codebook_size)

    def start_from(self, weights: dict[str, torch.Tensor]) -> None:
        """Begin with a VQGAN's weights and set the codebook's averages by its own choices on training pictures."""
        self.model.load_state_dict(weights)
        self.average = Average(self.model, decay=self.recipe.average_decay)
        rows = np.random.default_rng(0).integers(len(self.train.images), size=96)
        self.codebook.start(latents_of(self.model, to_tensor(self.train.images[rows])), from_entries=True)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs."""
        return {
            "run": self.run.counters(),
            "model": self.model.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "codebook": self.codebook.state(),
            "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
            "adversary_optimizer": self.adversary_optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.run.resume(state["run"])
        self.model.load_state_dict(state["model"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.codebook.restore(state["codebook"])
        self.average.restore(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])

    def _batches(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng((1, step))
        side, size = self.recipe.crop_side, self.train.images.shape[1]
        crops = []
        for row in rng.integers(len(self.train.images), size=self.recipe.crops):
            top, left = rng.integers(size - side + 1, size=2)
            window = (row, slice(top, top + side), slice(left, left + side))
            crops.append((self.train.images[window], self.train.labels[window]))
        whole = [
            (self.train.images[r], self.train.labels[r])
            for r in rng.integers(len(self.train.images), size=self.recipe.whole)
        ]
        batches = []
        for pictures in (crops, whole):
            images, labels = (np.stack(part) for part in zip(*pictures, strict=True))
            flips = rng.random(len(images)) < 0.5
            images[flips], labels[flips] = images[flips, :, ::-1], labels[flips, :, ::-1]
            batches.append((to_tensor(images), pixel_weights(torch.from_numpy(labels))))
        return batches

    def advance(self, step: int) -> dict[str, float]:
        """Take one step and return its losses."""
        recipe = self.recipe
        rate = learning_rate(step, self.run.steps, peak=recipe.learning_rate, warmup=recipe.warmup)
        for group in (*self.optimizer.param_groups, *self.adversary_optimizer.param_groups):
            group["lr"] = rate
        ramp = min(max(step - recipe.adversary_from, 0) / recipe.adversary_ramp, 1.0)
        quantize = step >= recipe.codebook_from

        def work(batch: tuple[torch.Tensor, torch.Tensor]) -> MicroBatch:
            return picture_gradients(
                self.model,
                self.codebook,
                *batch,
                share=0.5,
                discriminator=self.discriminator,
                adversarial=recipe.adversarial * ramp,
                matching=recipe.matching * ramp,
                quantize=quantize,
            )

        results = self.workers.map(work, self._batches(step))
        sum_gradients(self.parameters, [r.gradients for r in results])
        sum_gradients(self.adversary, [r.discriminator_gradients for r in results])
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        torch.nn.utils.clip_grad_norm_(self.adversary, 1.0)
        self.optimizer.step()
        self.adversary_optimizer.step()
        latents = torch.cat([r.latents for r in results])
        restarted = 0
        if quantize:
            self.codebook.update(latents)
            torch.manual_seed(step)  # a resumed run restarts entries as an uninterrupted one does
            if step % recipe.restart_every == 0 and step < 0.9 * self.run.steps:
                restarted = self.codebook.restart_dead(latents)
        elif step + 1 == recipe.codebook_from:
            rows = np.random.default_rng(0).integers(len(self.train.images), size=96)
            self.codebook.start(latents_of(self.model, to_tensor(self.train.images[rows])))
        self.chosen += torch.bincount(torch.cat([r.codes for r in results]), minlength=len(self.chosen))
        self.average.update(self.model)
        return {
            "crops": results[0].reconstruction,
            "whole": results[1].reconstruction,
            "commitment": sum(r.commitment for r in results) / 2,
            "discriminator": sum(r.discrimination for r in results) / 2,
            "gradient_norm": norm,
            "restarted": float(restarted),
            "rate": rate,
        }

    def usage(self) -> dict[str, float]:
        """Return how many entries were chosen since the last call, and their perplexity."""
        p = self.chosen / self.chosen.sum().clamp_min(1)
        used = int((self.chosen > 0).sum())
        perplexity = float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))
        self.chosen.zero_()
        return {"used": used, "perplexity": perplexity}


@torch.inference_mode()
def measure(
    weights: dict[str, torch.Tensor], spec: AutoencoderSpec, held_out: LandscapeSet, *, count: int
) -> tuple[dict[str, float], Image.Image]:
    """Return held-out PSNR and codebook use of averaged weights, and a picture of originals over reconstructions."""
    model = Autoencoder(spec)
    model.load_state_dict(weights)
    rows = np.linspace(0, len(held_out.images) - 1, count).astype(int)
    scores, codes, strips = [], [], []
    for first in range(0, count, 10):
        images = np.asarray(held_out.images[rows[first : first + 10]])
        found = model.encode_codes(to_tensor(images))
        output = model.decode_codes(found)
        scores.append(psnr_db(output, images))
        codes.append(found.flatten())
        if first < 30:
            made = ((output.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()
            strips += [np.hstack(list(images)), np.hstack(list(made))]
    used = len(torch.unique(torch.cat(codes)))
    wide = max(s.shape[1] for s in strips)
    strips = [np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0))) for s in strips]
    figures = {"psnr_db": float(np.concatenate(scores).mean()), "held_out_used": float(used)}
    return figures, Image.fromarray(np.vstack(strips))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=4000, help="where training ends; may change on resuming")
    parser.add_argument("--start", type=Path, help="checkpoint folder whose first stage to begin with")
    parser.add_argument("--measure-every", type=int, default=250)
    parser.add_argument("--measure-count", type=int, default=50, help="held-out pictures to measure on")
    parser.add_argument("--export", action="store_true", help="write the checkpoint of the present state and stop")
    options = parser.parse_args()
    train, held_out = open_set(options.train), open_set(options.held_out)
    run = Run(options.run, steps=options.steps)
    recipe = Recipe() if options.start else Recipe(codebook_from=200, adversary_from=1800)
    training = VqganTraining(PICTURE_SPEC, recipe, run, train)
    if run.state_path.exists():
        training.restore(load_state(run.state_path))
    elif options.start:
        training.start_from(read_weights(options.start, "first_stage_model."))

    def measured() -> dict[str, float]:
        figures, picture = measure(training.average.weights, PICTURE_SPEC, held_out, count=options.measure_count)
        picture.save(options.run / f"reconstructions_{run.step:05d}.png")
        return figures

    if not options.export:
        if run.step == 0:
            run.log(**measured())
        for step in run.iterate(lambda: save_state(run.state_path, training.state())):
            losses = training.advance(step)
            if (step + 1) % options.measure_every == 0:
                run.log(**losses, **training.usage(), **measured())
            elif step % 25 == 0:
                run.log(**losses)
    if options.export or run.finished:
        write_checkpoint(
            options.run / "checkpoint",
            "landscape_vqgan",
            autoencoder_config(PICTURE_SPEC),
            training.average.weights,
            step=run.step,
        )
        run.log(**measured())


if __name__ == "__main__":
    main()
