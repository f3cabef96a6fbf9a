"""Where the files for C++ hosts lie, for their builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import trt_vqgan

# as Python found the package: resolved links of a source tree would lead out of it
RUNTIME = Path(trt_vqgan.__file__).parent / "runtime"


def _prints(text: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(text)
            context.exit()

    return callback


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--cmakedir`` and ``--includes``, which print a line and leave, to a group."""
    options: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True}
    command = click.option(
        "--includes",
        callback=_prints(f"-I{RUNTIME / 'include'}"),
        help="Print the compiler's flag for the C++ header, and leave.",
        **options,
    )(command)
    return click.option(
        "--cmakedir",
        callback=_prints(str(RUNTIME / "cmake")),
        help="Print the folder of the CMake package, for trt_vqgan_DIR, and leave.",
        **options,
    )(command)
