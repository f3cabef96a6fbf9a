"""``trt-vqgan export`` and ``verify``: a checkpoint to a bundle, and whether both compute the same. They need torch."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.errors import ParityError
from trt_vqgan.extras import import_module
from trt_vqgan.manifest import read_manifest


@click.command(short_help="Write a checkpoint as a bundle (needs torch).")
@click.argument("run", type=options.PATH, metavar="RUN_OR_CKPT")
@options.config_option
@click.option("-o", "--out", type=options.PATH, required=True, metavar="BUNDLE", help="The folder to write.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "int4", "auto"]),
    default="fp32",
    show_default=True,
    help="Of the weights; int8 and int4 are smaller and faster, and int4 changes what the model predicts a little. "
    "auto measures that on codes that the model draws, and takes the fastest, mixtures included, of at most 0.005 "
    "nats of mean divergence a code and 0.5 % of likelihood.",
)
@click.option("--gpu", is_flag=True, help="Add FP16 graphs for GPUs, which `build` makes engines of.")
@click.option("--class-names", metavar="NAME,NAME,…", help="A name a class, in the order of their ids.")
@click.option(
    "--layout-form",
    type=click.Choice(["boxes", "boxes+crop", "points", "points+crop"]),
    help="What the tokens of a scene model's layout are.  [default: what the config says]",
)
@click.option("--null-class", type=click.IntRange(min=0), metavar="ID", help="The class that stands for no class.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="Default of `generate`.")
@click.option("--top-k", type=click.IntRange(min=1), help="Default of `generate`.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Default of `generate`.")
@click.option("--licence", metavar="TEXT", help="Licence of the weights; travels with the bundle.")
@click.option("--provenance", metavar="TEXT", help="Where the weights come from; travels with the bundle.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@debug_option
def export(run: Path, config: Path | None, out: Path, class_names: str | None, **settings: Any) -> None:
    """Write the checkpoint RUN_OR_CKPT as a bundle of ONNX graphs.

    RUN_OR_CKPT is a folder as the published code leaves it, a .ckpt file, or a .safetensors file. Nothing in it is
    executed.
    """
    exporter = import_module("trt_vqgan.export.exporter")
    names = [name.strip() for name in class_names.split(",")] if class_names else []
    bundle = exporter.export_checkpoint(
        run, out, config=config, class_names=names, on_progress=_say_stage, on_decision=click.echo, **settings
    )
    manifest = read_manifest(bundle)
    click.echo(f"wrote {bundle}: bundle {manifest.bundle_id}, {manifest.size_bytes / 1e6:.1f} MB")


@click.command(short_help="Compare a bundle with its checkpoint (needs torch).")
@options.bundle_argument
@click.option(
    "--against", "run", type=options.PATH, required=True, metavar="RUN_OR_CKPT", help="The checkpoint it came from."
)
@options.config_option
@options.json_option
@debug_option
def verify(bundle: Path, run: Path, config: Path | None, as_json: bool) -> None:
    """Run torch and BUNDLE side by side on the same inputs.

    Prints a row an output: largest absolute and relative error, share of equal codes, PSNR. Graphs for GPUs, where the
    bundle has them, are run on the CPU with every FP16 result rounded, the segments of the transformer with attention
    by its definition between them; engines and kernels are not run. Exit status 1 when a tolerance is broken.
    """
    parity = import_module("trt_vqgan.export.parity")
    rows = parity.verify_bundle(bundle, run, config=config)
    if as_json:
        click.echo(
            json.dumps([{key: _json_value(value) for key, value in dataclasses.asdict(row).items()} for row in rows])
        )
    else:
        click.echo(f"{'output':<36} {'max abs':>10} {'max rel':>10} {'codes':>8} {'PSNR dB':>8} {'':>6}")
        for row in rows:
            codes = "-" if row.codes_share is None else "equal" if row.codes_equal else f"{row.codes_share:.2%}"
            psnr = "-" if row.psnr_db is None else f"{row.psnr_db:.1f}"
            click.echo(
                f"{row.output:<36} {_number(row.max_abs):>10} {_number(row.max_rel):>10} {codes:>8} {psnr:>8} "
                f"{'ok' if row.ok else 'BROKEN':>6}"
            )
    broken = [row.output for row in rows if not row.ok]
    if broken:
        raise ParityError(
            f"{bundle} doesn't compute what {run} computes: {', '.join(broken)} beyond tolerance; export it again"
        )


def _say_stage(stage: str) -> None:
    """Say on a terminal what export is at."""
    if sys.stderr.isatty():
        click.echo(f"{stage} …", err=True)


def _json_value(value: object) -> object:
    """Return ``value``, or its name where JSON has no such number."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
