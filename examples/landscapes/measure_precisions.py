"""How far a trained model's precisions are from float32 on held-out pictures, as the engines of this package run them.

    python -m examples.landscapes.measure_precisions examples/landscapes/states/class SETS/held-out WORK
    python -m examples.landscapes.measure_precisions examples/landscapes/states/labels SETS/held-out WORK \\
        --first-stage examples/landscapes/states/class
    python -m examples.landscapes.measure_precisions RUN RUN/expected.npz WORK

Exports RUN in fp32, int8, int4 and auto, and prints for each and each engine, on codes of held-out pictures: the mean
divergence a code from fp32's distribution, the rise of the negative log-likelihood, and the share of codes of which the
likeliest is the same. Pictures and conditions become codes by the bundle in fp32, so that only the transformer differs.
A set is a folder of `dataset.py`, or an `.npz` with `images` and `classes`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

import trt_vqgan
from examples.landscapes.condition_maps import disparity
from examples.landscapes.dataset import open_set
from examples.landscapes.published_layout import read_weights, write_checkpoint
from trt_vqgan.export.precision_choice import divergence
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.pipeline import Pipeline

PRECISIONS = ("fp32", "int8", "int4", "auto")
BACKENDS = ("native", "onnxruntime")
CHUNK = 4
"""Pictures computed at once."""

Codes = NDArray[np.int64]


def joined(run: Path, first_stage: Path, folder: Path) -> Path:
    """Return ``folder`` with the checkpoint ``run``, which has no pictures' VQGAN, and that of ``first_stage``."""
    (config,) = (run / "configs").glob("*-project.yaml")
    weights = read_weights(run, "")
    weights |= {f"first_stage_model.{k}": v for k, v in read_weights(first_stage, "first_stage_model.").items()}
    model = yaml.safe_load(config.read_text())["model"]
    write_checkpoint(folder, config.name.removesuffix("-project.yaml"), model, weights, step=0)
    return folder


def held_out(pipe: Pipeline, source: Path, count: int) -> tuple[Codes, Codes]:
    """Return condition tokens (n, L) and codes (n, h, w) of the first ``count`` pictures of a set."""
    condition = pipe.spec.condition
    assert condition is not None
    if source.suffix == ".npz":
        arrays = np.load(source)
        images, kinds = arrays["images"][:count], arrays["classes"][:count]
    else:
        landscapes = open_set(source)
        images, kinds = np.asarray(landscapes.images[:count]), np.asarray(landscapes.kinds[:count], np.int64)
    if condition.kind == "class":
        tokens = pipe.encode_condition(class_id=kinds)
    elif condition.autoencoder is not None and condition.autoencoder.modality == "segmentation":
        tokens = pipe.encode_condition(segmentation=np.asarray(landscapes.labels[:count], np.int64))
    else:
        tokens = pipe.encode_condition(depth=disparity(np.asarray(landscapes.depth[:count])))
    return tokens.reshape(len(images), -1), pipe.encode(images)


def logits(pipe: Pipeline, tokens: Codes, codes: Codes) -> Iterator[torch.Tensor]:
    """Yield the logits float32 (1, h·w, V) of each picture."""
    for first in range(0, len(codes), CHUNK):
        part = slice(first, first + CHUNK)
        yield from torch.from_numpy(pipe.logits(tokens[part], codes[part]))[:, None]


def figures(wanted: list[torch.Tensor], pipe: Pipeline, tokens: Codes, codes: Codes) -> tuple[float, float, float]:
    """Return mean divergence a code, nats; rise of the negative log-likelihood, share; share of equal likeliest codes.

    ``wanted`` are fp32's logits of each picture.
    """
    kl, rise, before, equal = [], [], [], []
    for i, (p, q) in enumerate(zip(wanted, logits(pipe, tokens, codes), strict=True)):
        target = torch.from_numpy(codes[i].reshape(1, -1))
        found = divergence(p, q, target)
        nll = float(torch.nn.functional.cross_entropy(p[0].double(), target[0]))
        kl.append(found[0])
        rise.append(found[1] * nll)
        before.append(nll)
        equal.append(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    return float(np.mean(kl)), float(np.sum(rise) / np.sum(before)), float(np.mean(equal))


def main() -> None:
    """Parse the command line, export what isn't there yet, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("set", type=Path)
    parser.add_argument("work", type=Path, help="folder for the bundles; those that are there are not made again")
    parser.add_argument("--first-stage", type=Path, help="checkpoint of the pictures' VQGAN where RUN has none")
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    run = options.run
    if options.first_stage is not None:
        shutil.rmtree(options.work / "run", ignore_errors=True)
        run = joined(run, options.first_stage, options.work / "run")
    for precision in PRECISIONS:
        if not (options.work / precision).exists():
            options.work.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            trt_vqgan.export_checkpoint(run, options.work / precision, precision=precision, on_decision=print)
            print(f"{precision}: exported in {time.perf_counter() - started:.1f} s")
    with trt_vqgan.load(options.work / "fp32", backend="onnxruntime", threads=1) as pipe:
        tokens, codes = held_out(pipe, options.set, options.pictures)
        wanted = list(logits(pipe, tokens, codes))
    nll = np.mean(
        [
            torch.nn.functional.cross_entropy(p[0], torch.from_numpy(c.reshape(-1)))
            for p, c in zip(wanted, codes, strict=True)
        ]
    )
    print(f"{len(codes)} pictures, {codes.size} codes: {nll:.3f} nats a code in fp32")
    print("| weights | MB | engine | KL, nats a code | NLL, % | equal likeliest codes, % |\n|:--|--:|:--|--:|--:|--:|")
    for precision in PRECISIONS:
        folder = options.work / precision
        size = (folder / str(read_manifest(folder).graphs["transformer"].data_file)).stat().st_size / 1e6
        for backend in BACKENDS:
            with trt_vqgan.load(folder, backend=backend, threads=1) as pipe:
                kl, rise, equal = figures(wanted, pipe, tokens, codes)
            print(f"| {precision} | {size:.1f} | {backend} | {kl:.5f} | {100 * rise:+.2f} | {100 * equal:.1f} |")


if __name__ == "__main__":
    main()
