"""Encode a rendered set, and its mirror images, into the codes that a GPT is trained on; goes on where it stopped.

python -m examples.landscapes.encode_codes SETS/train VQGAN/checkpoint CODES/train
python -m examples.landscapes.encode_codes SETS/train MAPS/checkpoint CODES/train-labels --map labels
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.landscapes.condition_maps import MAPS, map_spec, map_tensor
from examples.landscapes.dataset import LandscapeSet, open_set
from examples.landscapes.published_layout import read_weights
from examples.landscapes.train_vqgan import PICTURE_SPEC
from examples.landscapes.training_state import Workers
from examples.landscapes.vqgan_step import to_tensor
from trt_vqgan.export.vqgan_modules import Autoencoder

CHUNK = 20
"""Pictures encoded at once by one worker."""


def encode(model: Autoencoder, landscapes: LandscapeSet, kind: str, first: int, *, exact: bool) -> NDArray[np.uint16]:
    """Return codes uint16 (n, 2, h, w) of up to CHUNK pictures from `first` on: as they are, and mirrored.

    With `exact` in float32, as the shipped model runs; else convolutions in bfloat16, 2 to 3 times as fast.
    """
    rows = slice(first, first + CHUNK)
    if kind == "images":
        inputs = to_tensor(landscapes.images[rows])
    else:
        inputs = map_tensor(kind, landscapes, np.arange(first, min(first + CHUNK, len(landscapes.kinds))))
    codes = []
    for x in (inputs, inputs.flip(3)):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=not exact, cache_enabled=False):
            z = model.quant_conv(model.encoder(x)).float()
        codes.append(model.quantize.codes(z).numpy())
    return np.stack(codes, 1).astype(np.uint16)


def main() -> None:
    """Parse the command line and encode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("codes", type=Path, help="folder of codes.npy and kinds.npy")
    parser.add_argument("--map", choices=("images", *MAPS), default="images")
    parser.add_argument("--first", type=int, help=f"how many pictures, whole chunks of {CHUNK}; all by default")
    parser.add_argument("--exact", action="store_true", help="float32: for held-out sets")
    options = parser.parse_args()
    landscapes = open_set(options.set)
    model = Autoencoder(PICTURE_SPEC if options.map == "images" else map_spec(options.map))
    model.load_state_dict(read_weights(options.checkpoint, ""))
    model.eval().requires_grad_(False)
    options.codes.mkdir(parents=True, exist_ok=True)
    n = len(landscapes.kinds) if options.first is None else min(options.first, len(landscapes.kinds))
    side = model.spec.latent_size
    path, done_path = options.codes / "codes.npy", options.codes / "done.npy"
    if not path.exists():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(n, 2, side, side))
        np.save(done_path, np.zeros(-(-n // CHUNK), bool))
    codes, done = np.load(path, mmap_mode="r+"), np.load(done_path)
    np.save(options.codes / "kinds.npy", np.asarray(landscapes.kinds[:n]))
    workers = Workers(2)
    work = functools.partial(encode, model, landscapes, options.map, exact=options.exact)
    left = np.flatnonzero(~done)
    for start in range(0, len(left), 10):
        chunks = left[start : start + 10]
        for chunk, found in zip(chunks, workers.map(work, [int(c) * CHUNK for c in chunks]), strict=True):
            codes[chunk * CHUNK : chunk * CHUNK + len(found)] = found
            done[chunk] = True
        codes.flush()
        np.save(done_path, done)
        print(f"{int(done.sum()) * CHUNK}/{n}", flush=True)


if __name__ == "__main__":
    main()
