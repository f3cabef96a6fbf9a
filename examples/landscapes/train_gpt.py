"""Train a GPT on codes, given a class, labels or depth, resumable at any time.

    python -m examples.landscapes.train_gpt class RUN --first-stage VQGAN/checkpoint \\
        --train CODES/train CODES/train-more --held-out CODES/held-out
    python -m examples.landscapes.train_gpt labels RUN --first-stage VQGAN/checkpoint \\
        --condition-stage MAPS/checkpoint --train CODES/train --train-condition CODES/train-labels \\
        --held-out CODES/held-out --held-out-condition CODES/held-out-labels

The sequence is [condition tokens, picture codes]; the loss is on picture codes only. A class model has one token: the
scene's kind, or, for a tenth of the sequences, the null class, so that it is the unconditional model too.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from examples.landscapes.aimed_head import aim_head
from examples.landscapes.condition_maps import MAPS, map_spec
from examples.landscapes.encode_codes import CHUNK
from examples.landscapes.published_layout import (
    autoencoder_config,
    class_condition,
    read_weights,
    transformer_config,
    write_checkpoint,
)
from examples.landscapes.terrain import KINDS
from examples.landscapes.train_vqgan import PICTURE_SPEC, learning_rate
from examples.landscapes.training_state import Average, Run, Workers, load_state, save_state, sum_gradients
from trt_vqgan.export.gpt_modules import GPT, Block, SelfAttention
from trt_vqgan.spec import TransformerSpec

NULL_CLASS = len(KINDS)
CLASS_DROPOUT = 0.1
NOISE = 0.5
"""Share of picture codes that a map's model sees replaced at first, falling to none at 0.6 of the steps (the published
`pkeep`): it learns to look at its map, since its own last codes tell less."""
BATCH = 8
"""Sequences a worker and step."""
PEAK_RATE = 1.2e-3
AVERAGE_DECAY = 0.998


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequences:
    """Codes of a set with their conditions.

    Attributes
    ----------
    codes : uint16 (n, 2, T), picture codes in raster order, as rendered and mirrored.
    conditions : uint16 (n, 2, C), condition tokens of the same.
    is_class : whether the condition is a class, which may be dropped.
    """

    codes: NDArray[np.uint16]
    conditions: NDArray[np.uint16]
    is_class: bool

    @property
    def num_condition(self) -> int:
        """Condition tokens of a sequence."""
        return int(self.conditions.shape[2])


def read_sequences(codes: list[Path], conditions: list[Path] | None, *, partial: bool = False) -> Sequences:
    """Return sequences of folders that encode_codes wrote, one after another; without `conditions` the class is one.

    With `partial`, what is encoded so far is taken of class folders. Raises ValueError for a folder that is not fully
    encoded, or condition folders that don't match the codes'.
    """
    read = [_read_codes(folder, partial=partial and conditions is None) for folder in codes]
    pictures = np.concatenate([rows for rows, _ in read])
    if conditions is None:
        labelled = zip(codes, read, strict=True)
        kinds = np.concatenate([np.load(folder / "kinds.npy")[done] for folder, (_, done) in labelled]).astype(
            np.uint16
        )
        tokens = np.repeat(kinds[:, None, None], 2, axis=1)
    else:
        tokens = np.concatenate([_read_codes(folder, partial=False)[0] for folder in conditions])
    if len(tokens) != len(pictures):
        raise ValueError(f"{len(tokens)} conditions for {len(pictures)} pictures; encode the same sets for both")
    return Sequences(codes=pictures, conditions=tokens, is_class=conditions is None)


def _read_codes(folder: Path, *, partial: bool) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the encoded rows uint16 (m, 2, T) and which rows of the set they are, bool (n,)."""
    done = np.load(folder / "done.npy")
    if not (done.all() or partial):
        raise ValueError(f"{folder}: {int(done.sum())} of {len(done)} chunks are encoded; run encode_codes again")
    codes = np.load(folder / "codes.npy")
    rows = np.repeat(done, CHUNK)[: len(codes)]
    return codes[rows].reshape(int(rows.sum()), 2, -1), rows


def gpt_spec(sequences: Sequences, *, layers: int, width: int) -> TransformerSpec:
    """Return the transformer for these sequences, heads of 32 channels."""
    length = sequences.num_condition + int(sequences.codes.shape[2]) - 1
    return TransformerSpec(
        vocab_size=PICTURE_SPEC.codebook_size,
        max_seq_len=length,
        num_layers=layers,
        num_heads=width // 32,
        hidden_size=width,
    )


class FusedAttention(SelfAttention):
    """Causal attention to train with: the same function and keys as its base in fewer passes over the scores.

    Measured for 8 sequences of 256 tokens, 8 heads of 32 channels, bfloat16 and one thread, forward and backward:
    18 ms as its base computes it, 24 ms by torch's flash attention, 13 ms here.
    """

    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output (B, T, width), and keys and values (2, B · heads, T, head size); takes no past."""
        if past is not None or self.num_unmasked:
            raise ValueError("this attention is for training causal models on whole sequences")
        batch, tokens, width = x.shape
        size = width // self.num_heads
        shape, flat = (batch, tokens, self.num_heads, size), (batch * self.num_heads, tokens, size)
        q, k, v = (layer(x).view(shape).transpose(1, 2).reshape(flat) for layer in (self.query, self.key, self.value))
        hidden = torch.full((tokens, tokens), -torch.inf, dtype=q.dtype).triu(1)
        scores = torch.baddbmm(hidden, q * size**-0.5, k.transpose(1, 2))
        out = (torch.softmax(scores, dim=-1) @ v).view(batch, self.num_heads, tokens, size)
        return self.drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, width))), torch.stack((k, v))


def fuse_attention(model: GPT) -> None:
    """Replace a model's attentions by faster ones of the same weights, in place."""
    for block in model.blocks:
        assert isinstance(block, Block)
        fused = FusedAttention(model.spec, dropout=block.attn.drop.p)
        fused.load_state_dict(block.attn.state_dict())
        block.attn = fused


def initialize(model: GPT) -> None:
    """Set weights as GPT-2 does: deviation 0.02, residual branches scaled down by their number."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            deep = name.endswith(("attn.proj.weight", "mlp.2.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * model.spec.num_layers) ** 0.5 if deep else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def picture_nats(
    model: GPT, condition: torch.Tensor, codes: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Return nats (B, T) of picture codes int64 (B, T) after condition tokens int64 (B, C) and the codes ``seen``."""
    logits = model(torch.cat([condition, (codes if seen is None else seen)[:, :-1]], 1))[
        :, condition.shape[1] - 1 :
    ].float()
    # one row a code: with the vocabulary strided, as (B, V, T), the CPU's log-softmax is several times slower
    nats = F.cross_entropy(logits.reshape(-1, logits.shape[2]), codes.reshape(-1), reduction="none")
    return nats.view(codes.shape)


class GptTraining:
    """Model, average and the two optimisers of one run: Muon for the blocks' matrices, AdamW for the rest."""

    def __init__(self, spec: TransformerSpec, run: Run, sequences: Sequences, *, dropout: float) -> None:
        torch.manual_seed(0)
        self.run, self.sequences = run, sequences
        self.model = GPT(spec, dropout=dropout)
        initialize(self.model)
        fuse_attention(self.model)
        self.average = Average(self.model, decay=AVERAGE_DECAY)
        self.parameters = list(self.model.parameters())
        matrices = [p for name, p in self.model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01),
        ]
        self.workers = Workers(2)

    def start_from(self, weights: dict[str, torch.Tensor]) -> None:
        """Begin with another GPT's weights; a class model's sequences may be shorter.

        Its positions go to the last ones of these, so it hands on what it knows of pictures, and a head of the first
        layer is aimed at the map (`aimed_head`).
        """
        kept = {k: v for k, v in weights.items() if not k.endswith("attn.mask")}
        positions = self.model.pos_emb.detach().clone()
        known = kept["pos_emb"]
        added = positions.shape[1] - known.shape[1]
        positions[:, added:] = known
        self.model.load_state_dict({**kept, "pos_emb": positions})
        if added:
            aim_head(self.model, side=PICTURE_SPEC.latent_size)
        self.average = Average(self.model, decay=AVERAGE_DECAY)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs."""
        return {
            "run": self.run.counters(),
            "model": self.model.state_dict(),
            "average": self.average.state(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.run.resume(state["run"])
        self.model.load_state_dict(state["model"])
        self.average.restore(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def advance(self, step: int) -> dict[str, float]:
        """Take one step and return its loss in nats a code."""
        rate = learning_rate(step, self.run.steps, peak=PEAK_RATE, warmup=100)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        rng = np.random.default_rng((3, step))
        # each epoch visits every picture once, in its own order
        n = len(self.sequences.codes)
        places = np.arange(step * 2 * BATCH, (step + 1) * 2 * BATCH)
        orders = {int(e): np.random.default_rng((4, int(e))).permutation(n) for e in np.unique(places // n)}
        rows = np.array([orders[int(p // n)][p % n] for p in places])
        mirrored = rng.integers(2, size=len(rows))
        codes = torch.from_numpy(self.sequences.codes[rows, mirrored].astype(np.int64))
        condition = torch.from_numpy(self.sequences.conditions[rows, mirrored].astype(np.int64))
        if self.sequences.is_class:
            condition[torch.from_numpy(rng.random(len(rows)) < CLASS_DROPOUT)] = NULL_CLASS
        torch.manual_seed(step)
        self.model.train()
        seen = codes
        if not self.sequences.is_class:
            noise = torch.from_numpy(rng.random(codes.shape) < NOISE * max(0.0, 1 - step / (0.6 * self.run.steps)))
            seen = torch.where(noise, torch.randint(self.model.spec.vocab_size, codes.shape), codes)

        def work(part: slice) -> tuple[float, tuple[torch.Tensor, ...]]:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                loss = picture_nats(self.model, condition[part], codes[part], seen[part]).mean()
            return float(loss.detach()), torch.autograd.grad(0.5 * loss, self.parameters)

        results = self.workers.map(work, [slice(0, BATCH), slice(BATCH, 2 * BATCH)])
        sum_gradients(self.parameters, [r[1] for r in results])
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(self.model)
        return {"nats": sum(r[0] for r in results) / 2, "gradient_norm": norm, "rate": rate}


@torch.inference_mode()
def measure(
    weights: dict[str, torch.Tensor], spec: TransformerSpec, held_out: Sequences, *, count: int
) -> dict[str, float]:
    """Return held-out nats and bits a code in float32 of averaged weights; for classes, also of the null class."""
    model = GPT(spec)
    model.load_state_dict(weights)
    model.eval()
    rows = np.linspace(0, len(held_out.codes) - 1, count).astype(int)
    nats, null = [], []
    for part in np.array_split(rows, max(count // 10, 1)):
        codes = torch.from_numpy(held_out.codes[part, 0].astype(np.int64))
        condition = torch.from_numpy(held_out.conditions[part, 0].astype(np.int64))
        nats.append(picture_nats(model, condition, codes))
        if held_out.is_class:
            null.append(picture_nats(model, torch.full_like(condition, NULL_CLASS), codes))
    found = float(torch.cat(nats).mean())
    figures = {"held_out_nats": found, "held_out_bits": found / float(np.log(2))}
    if null:
        figures["held_out_null_nats"] = float(torch.cat(null).mean())
    return figures


def export(run: Run, training: GptTraining, kind: str, first_stage: Path, condition_stage: Path | None) -> None:
    """Write the run's checkpoint in the published layout: averaged GPT, VQGAN, and the condition's VQGAN."""
    spec = training.model.spec
    weights = {f"first_stage_model.{k}": v for k, v in read_weights(first_stage, "").items()}
    weights |= {f"transformer.{k}": v for k, v in training.average.weights.items()}
    if condition_stage is None:
        key, condition = "class_label", class_condition(len(KINDS) + 1)
    else:
        key = "segmentation" if kind == "labels" else "depth"
        condition = autoencoder_config(map_spec(kind))
        condition["params"]["image_key"] = key
        weights |= {f"cond_stage_model.{k}": v for k, v in read_weights(condition_stage, "").items()}
    config = transformer_config(spec, PICTURE_SPEC, condition_key=key, condition=condition)
    write_checkpoint(run.folder / "checkpoint", f"landscape_{kind}", config, weights, step=run.step)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("condition", choices=("class", *MAPS))
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="folders of codes")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
    parser.add_argument("--train-condition", type=Path, nargs="+", help="folders of the same sets' condition codes")
    parser.add_argument("--held-out-condition", type=Path, nargs="+")
    parser.add_argument("--first-stage", type=Path, required=True)
    parser.add_argument("--condition-stage", type=Path)
    parser.add_argument(
        "--start",
        type=Path,
        help="checkpoint folder whose transformer of the same width and depth to begin with, shorter sequences too",
    )
    parser.add_argument("--steps", type=int, default=6000, help="where training ends; may change on resuming")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--measure-every", type=int, default=250)
    parser.add_argument("--measure-count", type=int, default=100)
    parser.add_argument("--partial", action="store_true", help="train a class model on what is encoded so far")
    parser.add_argument("--export", action="store_true", help="write the checkpoint of the present state and stop")
    options = parser.parse_args()
    for given in (options.condition_stage, options.train_condition, options.held_out_condition):
        if (options.condition == "class") != (given is None):
            parser.error("labels and depth need --condition-stage and both condition folders, a class takes none")
    train = read_sequences(options.train, options.train_condition, partial=options.partial)
    held_out = read_sequences(options.held_out, options.held_out_condition)
    spec = gpt_spec(train, layers=options.layers, width=options.width)
    run = Run(options.run, steps=options.steps)
    training = GptTraining(spec, run, train, dropout=options.dropout)
    if run.state_path.exists():
        training.restore(load_state(run.state_path))
    elif options.start:
        training.start_from(read_weights(options.start, "transformer."))
    if not options.export:
        if run.step == 0:
            run.log(**measure(training.average.weights, spec, held_out, count=options.measure_count))
        for step in run.iterate(lambda: save_state(run.state_path, training.state())):
            losses = training.advance(step)
            if (step + 1) % options.measure_every == 0:
                figures = measure(training.average.weights, spec, held_out, count=options.measure_count)
                run.log(**losses, **figures)
            elif step % 25 == 0:
                run.log(**losses)
    if options.export or run.finished:
        export(run, training, options.condition, options.first_stage, options.condition_stage)
        run.log(**measure(training.average.weights, spec, held_out, count=len(held_out.codes)))


if __name__ == "__main__":
    main()
