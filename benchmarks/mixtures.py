"""``python -m trt_vqgan.benchmarks.mixtures``: how fast transformers are whose matrices have 8 or 4 bits, in turns.

    python -m trt_vqgan.benchmarks.mixtures --shape 12x768 --folder /tmp/mixtures
    python -m trt_vqgan.benchmarks.mixtures BUNDLE BUNDLE …

Of a shape: int4, a quarter and half of the matrices in 8 bits (those of the first layers), and int8, with random
weights. Of bundles, which must be of one model: as they are, called by their folder's name. Prints the median of a
decode step and of a prefill of 256 tokens, on our kernels and ONNX Runtime, each also over that of int8 (or of the last
bundle).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.arguments import count_argument, shape_argument
from trt_vqgan.benchmarks.decode_steps import EngineSteps, StepRunner, time_steps
from trt_vqgan.benchmarks.interleaving import in_turn
from trt_vqgan.benchmarks.prefill_rows import prefill_last
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.rows import NATIVE, OURS
from trt_vqgan.benchmarks.sequences import random_sequence
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.export.quantized_gpt import matrix_names
from trt_vqgan.export.transformer_graph import transformer_graph
from trt_vqgan.manifest import bundle_folder, read_manifest
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import ModelSpec

PREFILL_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Line:
    """The median of one thing measured, and how it compares.

    Attributes
    ----------
    of_last : the mean over rounds of this one's time over that of the last variant in the same round.
    """

    what: str
    runner: str
    batch: int
    variant: str
    median_ms: float
    of_last: float


def write_variants(spec: ModelSpec, folder: Path) -> dict[str, Path]:
    """Return the graphs of a model of random weights, from 4 to 8 bits; those in ``folder`` aren't written again."""
    assert spec.transformer is not None
    names = matrix_names(spec.transformer.num_layers)
    found = {}
    for wider in (0, len(names) // 4, len(names) // 2, len(names)):
        name = {0: "int4", len(names): "int8"}.get(wider, f"{wider} of {len(names)} in 8 bits")
        found[name] = folder / name.replace(" ", "-") / "transformer.onnx"
        if not found[name].exists():
            found[name].parent.mkdir(parents=True, exist_ok=True)
            wide = frozenset(names[:wider])
            transformer_graph(spec.transformer, RandomWeights(spec), precision="int4", wider=wide).save(found[name])
    return found


def measure(
    spec: ModelSpec,
    variants: Mapping[str, Path],
    *,
    runner: str,
    batches: Sequence[int],
    steps: int,
    rounds: int,
    threads: int,
) -> list[Line]:
    """Return a line a batch and variant of steps, and of prefill."""
    assert spec.transformer is not None
    assert spec.condition is not None
    engines: dict[str, Engine] = {}
    for name, path in variants.items():
        make = NativeEngine if runner == NATIVE else TransformerEngine
        engines[name] = make(path, spec.transformer, threads=threads)
    prefix, lines = spec.condition.num_tokens, []
    for batch in batches:
        tokens = random_sequence(spec, batch)[:, : prefix + steps]
        runners: dict[str, StepRunner] = {
            name: EngineSteps(engine, capacity=prefix + spec.num_codes) for name, engine in engines.items()
        }
        taken = {
            name: times.rounds for name, times in time_steps(runners, tokens, prefix=prefix, rounds=rounds).items()
        }
        lines += _lines("step", runner, batch, taken)
        length = min(PREFILL_TOKENS, spec.transformer.max_seq_len)
        long = np.random.default_rng(0).integers(0, spec.autoencoder.codebook_size, (batch, length))
        works = {name: functools.partial(prefill_last, engine, long) for name, engine in engines.items()}
        lines += _lines(
            "prefill",
            runner,
            batch,
            {name: [[each] for each in s] for name, s in in_turn(works, rounds=rounds).items()},
        )
    return lines


def _lines(what: str, runner: str, batch: int, taken: Mapping[str, Sequence[Sequence[float]]]) -> list[Line]:
    medians = {name: [float(np.median(each)) for each in rounds] for name, rounds in taken.items()}
    last = list(medians.values())[-1]
    return [
        Line(what, runner, batch, name, 1e3 * float(np.median(found)), float(np.mean(np.divide(found, last))))
        for name, found in medians.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m trt_vqgan.benchmarks.mixtures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--shape", type=shape_argument, metavar="LAYERSxWIDTH")
    parser.add_argument("--folder", type=Path, help="where the graphs of a shape are kept")
    parser.add_argument("--runner", choices=(NATIVE, OURS), action="append", help="both by default")
    parser.add_argument("--batch", type=count_argument, action="append", help="1 and 8 by default")
    parser.add_argument("--steps", type=count_argument, default=102)
    parser.add_argument("--rounds", type=count_argument, default=3)
    parser.add_argument("--threads", type=count_argument)
    options = parser.parse_args(arguments)
    if bool(options.bundles) == bool(options.shape) or bool(options.shape) != bool(options.folder):
        parser.error("wanted either bundles, or --shape with --folder")
    if options.shape:
        layers, width = options.shape
        spec = model_of_shape(layers, width=width)
        variants = write_variants(spec, options.folder)
    else:
        manifests = [read_manifest(path) for path in options.bundles]
        spec = manifests[0].model
        if spec.transformer is None or any(manifest.model != spec for manifest in manifests):
            parser.error("the bundles must be of one model with a transformer")
        variants = {
            path.name: bundle_folder(path) / manifest.graphs["transformer"].file
            for path, manifest in zip(options.bundles, manifests, strict=True)
        }
    print(f"| what | engine | batch | weights | median, ms | over {list(variants)[-1]} |\n|:--|:--|--:|:--|--:|--:|")
    for runner in options.runner or (NATIVE, OURS):
        for line in measure(
            spec,
            variants,
            runner=runner,
            batches=options.batch or (1, 8),
            steps=options.steps,
            rounds=options.rounds,
            threads=resolve_threads(options.threads),
        ):
            cells = (
                line.what,
                line.runner,
                str(line.batch),
                line.variant,
                f"{line.median_ms:.2f}",
                f"{line.of_last:.2f}",
            )
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
