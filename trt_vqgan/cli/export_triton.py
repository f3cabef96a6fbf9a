"""``trt-vqgan export-triton``: a bundle for Triton Inference Server."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option


@click.command("export-triton", short_help="Write a model repository for Triton Inference Server.")
@options.bundle_argument
@click.option("-o", "--out", "repository", type=options.PATH, required=True, metavar="REPO")
@click.option("--name", default="vqgan", show_default=True, help="What the models' names begin with.")
@click.option(
    "--target",
    metavar="SM",
    help="GPU architecture, as sm90: encoder and decoder are then the bundle's TensorRT engines for it.  "
    "[default: ONNX graphs]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of the model that generates.  [default: all processors]")
@click.option(
    "--site-packages",
    type=options.PATH,
    metavar="FOLDER",
    help="Packages on Triton's machine, with trt-vqgan among them.  [default: those of Triton's own Python]",
)
@options.json_option
@debug_option
def export_triton(
    bundle: Path,
    repository: Path,
    name: str,
    target: str | None,
    threads: int | None,
    site_packages: Path | None,
    as_json: bool,
) -> None:
    """Write BUNDLE into the model repository REPO: encoder and decoder, codes of pictures, and generation.

    Generation runs in Triton's Python backend, whose Python needs trt-vqgan; everything else lies in REPO.
    """
    from trt_vqgan.runtime.triton.repository import write_repository

    if re.fullmatch(r"[A-Za-z0-9_.-]+", name) is None:
        raise click.UsageError(f"--name {name!r}: wanted letters, digits, '_', '.' and '-', for the names of folders")
    written = write_repository(
        bundle, repository, name=name, target=target, threads=threads, site_packages=site_packages
    )
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(model) for model in written]))
        return
    for model in written:
        click.echo(f"{repository / model.name} ({model.runs_in})")
