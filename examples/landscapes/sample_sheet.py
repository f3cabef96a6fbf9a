"""Draw unselected samples of a trained class model, a row a class, the last row of the null class.

    python -m examples.landscapes.sample_sheet RUN/checkpoint sheet.png --columns 8

This is a look at a training, in PyTorch; pictures for anything else come from the exported bundle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from examples.landscapes.published_layout import read_weights
from examples.landscapes.terrain import KINDS
from examples.landscapes.train_vqgan import PICTURE_SPEC
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.export.vqgan_modules import Autoencoder
from trt_vqgan.spec import TransformerSpec


def spec_of(weights: dict[str, torch.Tensor]) -> TransformerSpec:
    """Return the sizes of a GPT by its weights; heads have 32 channels, as train_gpt makes them."""
    vocab_size, width = weights["tok_emb.weight"].shape
    return TransformerSpec(
        vocab_size=vocab_size,
        max_seq_len=weights["pos_emb"].shape[1],
        num_layers=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        num_heads=width // 32,
        hidden_size=width,
    )


def load_model(checkpoint: Path) -> tuple[GPT, Autoencoder]:
    """Return the GPT and the picture VQGAN of a checkpoint folder that train_gpt wrote."""
    weights = {k: v for k, v in read_weights(checkpoint, "transformer.").items() if not k.endswith("attn.mask")}
    gpt = GPT(spec_of(weights))
    gpt.load_state_dict(weights)
    vqgan = Autoencoder(PICTURE_SPEC)
    vqgan.load_state_dict(read_weights(checkpoint, "first_stage_model."))
    return gpt.eval(), vqgan.eval()


@torch.inference_mode()
def sample(
    model: GPT, condition: torch.Tensor, *, count: int, top_k: int, top_p: float, generator: torch.Generator
) -> torch.Tensor:
    """Return codes int64 (B, count) drawn after condition tokens int64 (B, C) at temperature 1."""
    tokens, past, drawn = condition, None, []
    for _ in range(count):
        logits, presents = model.forward_with_past(tokens, past)
        past = presents
        values, order = logits[:, -1].sort(dim=1, descending=True)
        probabilities = F.softmax(values[:, :top_k], dim=1)
        before = probabilities.cumsum(1) - probabilities
        probabilities = probabilities * (before < top_p)
        tokens = order.gather(1, torch.multinomial(probabilities, 1, generator=generator))
        drawn.append(tokens)
    return torch.cat(drawn, 1)


@torch.inference_mode()
def pictures(vqgan: Autoencoder, codes: torch.Tensor) -> np.ndarray:
    """Return pictures uint8 (B, H, W, 3) of codes int64 (B, T)."""
    side = PICTURE_SPEC.latent_size
    output = vqgan.decode_codes(codes.view(-1, side, side))
    return ((output.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-k", type=int, default=200)
    parser.add_argument("--top-p", type=float, default=0.95)
    options = parser.parse_args()
    gpt, vqgan = load_model(options.checkpoint)
    classes = torch.arange(len(KINDS) + 1).repeat_interleave(options.columns)[:, None]
    codes = sample(
        gpt,
        classes,
        count=PICTURE_SPEC.latent_size**2,
        top_k=options.top_k,
        top_p=options.top_p,
        generator=torch.Generator().manual_seed(options.seed),
    )
    made = pictures(vqgan, codes).reshape(len(KINDS) + 1, options.columns, *[PICTURE_SPEC.resolution] * 2, 3)
    Image.fromarray(np.vstack([np.hstack(list(row)) for row in made])).save(options.sheet)


if __name__ == "__main__":
    main()
