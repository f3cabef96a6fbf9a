"""``trt-vqgan bench``: how fast it runs here."""

from __future__ import annotations

from pathlib import Path

import click

from trt_vqgan.benchmarks.arguments import check_writable
from trt_vqgan.benchmarks.shapes import parse_shape
from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.errors import SpecError
from trt_vqgan.extras import import_module

PARTS = ("encode", "decode", "prefill", "step", "sampler", "generate", "window")
PRECISIONS = ("fp32", "int8", "int4")
STDOUT = Path("-")


def _shapes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return (layers, width) of each "12x768"."""
    try:
        shapes = [parse_shape(value) for value in values]
    except SpecError as error:
        raise click.BadParameter(str(error)) from None
    if len(set(shapes)) != len(shapes):
        raise click.BadParameter("the same shape is given twice")
    return tuple(shapes)


def _choices(value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in "encode,step", each of which must be known."""
    chosen = tuple(part.strip() for part in value.split(","))
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is unknown, wanted some of {','.join(known)}")
    return chosen


def _parts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else _choices(value, PARTS)


def _precisions(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else _choices(value, PRECISIONS)


def _batches(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the numbers in "1,8"."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise click.BadParameter(f"{value!r} is no list of batch sizes, for example 1,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _json_file(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Return the path if a file can be made there; told before the run, which may take long."""
    if value is None or value == STDOUT:
        return value
    try:
        return check_writable(value)
    except SpecError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Time a bundle, or a model of random weights.")
@options.optional_bundle_argument
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    callback=_shapes,
    metavar="LAYERSxWIDTH",
    help="A transformer of this shape with random weights, and an f16 VQGAN; may be repeated.",
)
@click.option("--what", callback=_parts, metavar=",".join(PARTS), help="Parts to time.  [default: all but window]")
@click.option(
    "--precision",
    "precisions",
    callback=_precisions,
    metavar=",".join(PRECISIONS),
    help="Precisions of a --shape.  [default: both]",
)
@click.option(
    "--batch", "batches", callback=_batches, default="1,8", show_default=True, metavar="N,…", help="Rows at once."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Rounds; in each, torch and this take turns.",
)
@click.option(
    "--against",
    type=options.PATH,
    metavar="RUN_OR_CKPT",
    help="The checkpoint of BUNDLE: torch then computes with its weights, and rows say how far results are apart.",
)
@click.option("--no-baseline", is_flag=True, help="Don't compare with torch, which then needn't be installed.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    callback=_json_file,
    metavar="FILE",
    help="Also write the numbers to FILE; `-` prints them instead of the table.",
)
@options.threads_option
@debug_option
def bench(
    bundle: Path | None,
    shapes: tuple[tuple[int, int], ...],
    what: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    batches: tuple[int, ...],
    repeats: int,
    against: Path | None,
    no_baseline: bool,
    json_file: Path | None,
    threads: int | None,
) -> None:
    """Print a table of latency and throughput of BUNDLE, or of a random model with --shape.

    Without either, the demo that ships with the package is timed. Every row tells how far its results are from the
    reference; where that is too far, the exit status is 1.
    """
    if bundle is not None and shapes:
        raise click.UsageError("BUNDLE and --shape both say what to time, choose one")
    if precisions is not None and not shapes:
        raise click.UsageError("--precision goes with --shape; a bundle has the precision that it was exported with")
    if against is not None and (shapes or no_baseline):
        raise click.UsageError(f"--against goes with a BUNDLE, not with {'--shape' if shapes else '--no-baseline'}")
    from trt_vqgan.atomic_file import write_bytes

    module = import_module("trt_vqgan.benchmarks.bench")
    report = module.run(
        bundle,
        shapes=shapes,
        what=what,
        precisions=precisions or PRECISIONS,
        batches=batches,
        threads=threads,
        repeats=repeats,
        baseline=not no_baseline,
        against=against,
        say=lambda line: click.echo(f"bench: {line}", err=True),
    )
    numbers = import_module("trt_vqgan.benchmarks.report").to_json(report)
    if json_file == STDOUT:
        click.echo(numbers, nl=False)
    else:
        if json_file is not None:
            write_bytes(json_file, numbers.encode())
        tables = import_module("trt_vqgan.benchmarks.tables")
        click.echo(tables.heading(report))
        click.echo(tables.text_table(report.rows), nl=False)
    module.check(report)
