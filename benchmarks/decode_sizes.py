"""``python -m trt_vqgan.benchmarks.decode_sizes --json sizes.json``: pictures of several sizes, beside torch."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arguments import file_argument
from trt_vqgan.benchmarks.bench import measure
from trt_vqgan.benchmarks.report import Report, to_json
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.benchmarks.subjects import RandomSubject, Subject
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.spec import ModelSpec

SIDES = (128, 256, 512, 768)


def model_of_side(side: int) -> ModelSpec:
    """Return the published f16 VQGAN as it decodes square pictures of ``side`` pixels, with attention where it was."""
    trained = model_of_shape(1, width=64).autoencoder
    at_codes = tuple(side * resolution // trained.resolution for resolution in trained.attention_resolutions)
    return ModelSpec(autoencoder=dataclasses.replace(trained, resolution=side, attention_resolutions=at_codes))


def run(*, sides: tuple[int, ...], repeats: int, threads: int | None, baseline: bool) -> Report:
    """Measure decoding at each size, float32 and with reduced precision, and return the report."""
    subjects: list[Subject] = [
        RandomSubject(model_of_side(side), name=f"f16 {side}x{side}", precisions=("fp32", "int8")) for side in sides
    ]
    report = measure(
        subjects,
        what=("decode",),
        batches=(1,),
        threads=resolve_threads(threads),
        repeats=repeats,
        baseline=baseline,
        say=lambda line: print(f"decode_sizes: {line}", file=sys.stderr),
    )
    command = " ".join(["python -m trt_vqgan.benchmarks.decode_sizes", *sys.argv[1:]])
    return dataclasses.replace(report, command=command)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.decode_sizes", description=__doc__)
    parser.add_argument("--json", type=file_argument, required=True)
    parser.add_argument("--side", type=int, action="append", help="side of the picture, pixels; repeatable")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-baseline", action="store_true")
    options = parser.parse_args(arguments)
    report = run(
        sides=tuple(options.side or SIDES),
        repeats=options.repeats,
        threads=options.threads,
        baseline=not options.no_baseline,
    )
    write_bytes(options.json, to_json(report).encode())


if __name__ == "__main__":
    main()
