"""``trt-vqgan build``: TensorRT engines of a bundle, for GPUs that need not be here."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import Interrupted, debug_option
from trt_vqgan.extras import import_module

REDRAW_SECONDS = 0.2


@click.command(short_help="Build TensorRT engines of a bundle.")
@options.bundle_argument
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="SM[,SM…]",
    help="GPU architecture to build for, as sm86; may be repeated.  [default: sm80,sm86,sm89,sm120 with TensorRT-RTX, "
    "the GPU here with full TensorRT]",
)
@options.json_option
@debug_option
def build(bundle: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Build TensorRT engines of BUNDLE into it, where they are missing or out of date.

    BUNDLE must have graphs for GPUs (`export --gpu`). TensorRT-RTX builds on any machine, for GPUs of the architectures
    sm80, sm86, sm89 and sm120; full TensorRT builds for the GPU that it runs on.
    """
    engines = import_module("trt_vqgan.export.bundle_engines")
    names = [name for given in targets for name in given.split(",") if name]
    progress = _EnginesProgress(quiet=as_json)
    try:
        report = engines.build_engines(bundle, targets=names, on_engine=progress)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{progress.done} engines are built and recorded; the next build goes on from there"
        ) from None
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
        return
    size_bytes = sum(record.size_bytes for record in (report.built | report.kept).values())
    click.echo(
        f"{len(report.built)} engines built, {len(report.kept)} up to date, for {', '.join(report.targets)}: "
        f"{size_bytes / 1e6:.1f} MB, {report.tensorrt}, {report.seconds:.1f} s"
    )


class _EnginesProgress:
    """A bar of engines at a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self.done = 0
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None

    def __call__(self, graph: str, done: int, total: int) -> None:
        self.done = done
        if self._quiet:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="engine", mininterval=REDRAW_SECONDS, leave=False, file=sys.stderr)
        self._bar.set_postfix_str(graph, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
