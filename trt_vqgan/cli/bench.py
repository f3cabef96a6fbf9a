"""``trt-vqgan bench``: how fast it runs here."""

from __future__ import annotations

from pathlib import Path

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.extras import import_module

PARTS = ("encode", "decode", "prefill", "step", "generate")


def _shape(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return (layers, width) of "12x768"."""
    if value is None:
        return None
    layers, cross, width = value.lower().partition("x")
    if not (cross and layers.isdecimal() and width.isdecimal() and int(layers) >= 1 and int(width) >= 1):
        raise click.BadParameter(f"{value!r} is no LAYERSxWIDTH, for example 12x768")
    return int(layers), int(width)


def _parts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the parts that "encode,step" names."""
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(","))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is unknown, wanted some of {','.join(PARTS)}")
    return parts


@click.command(short_help="Time a bundle, or a model of random weights.")
@options.optional_bundle_argument
@click.option(
    "--shape", callback=_shape, metavar="LAYERSxWIDTH", help="A transformer of this shape with random weights."
)
@click.option("--what", callback=_parts, metavar=",".join(PARTS), help="Parts to time.  [default: all]")
@click.option("--json", "json_file", type=options.PATH, metavar="FILE", help="Also write the numbers to FILE.")
@options.threads_option
@debug_option
def bench(
    bundle: Path | None,
    shape: tuple[int, int] | None,
    what: tuple[str, ...] | None,
    json_file: Path | None,
    threads: int | None,
) -> None:
    """Print a table of latency and throughput of BUNDLE, or of a random model with --shape.

    Without either, the demo that ships with the package is timed.
    """
    if bundle is not None and shape is not None:
        raise click.UsageError("BUNDLE and --shape both say what to time, choose one")
    module = import_module("trt_vqgan.benchmarks.bench")
    module.run(bundle, shape=shape, what=what, json_file=json_file, threads=threads)
