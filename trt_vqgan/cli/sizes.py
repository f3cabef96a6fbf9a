"""Options of pictures larger than the training size."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trt_vqgan.runtime.requests import GenerateArguments

SIZE_SETTINGS = ("size", "window_plan", "window_shift", "memory", "decode_tiles")


def size_options(function: Any) -> Any:
    """Add the options of `SIZE_SETTINGS`."""
    for option in (
        click.option("--decode-tiles", is_flag=True, help="Decode in overlapping tiles: less memory, nearly the same."),
        click.option(
            "--memory",
            type=click.FloatRange(min=0),
            metavar="GB",
            help="Bound on the windows' caches: fewer pictures at once, and what still doesn't fit is computed again.  "
            "[default: three quarters of what is available]",
        ),
        click.option(
            "--window-shift",
            type=click.IntRange(min=1),
            metavar="S",
            help="Codes between two windows; above 1 faster, and an approximation.  [default: 1, as published]",
        ),
        click.option(
            "--window-plan",
            type=click.Choice(["exact", "plain"]),
            help="Share work between windows, or compute each by itself; the same codes.  [default: exact]",
        ),
        click.option(
            "--size",
            metavar="WxH",
            help="Pixels of the picture, at least the training size: a window slides over it.",
        ),
    ):
        function = option(function)
    return function


def size_arguments(
    *, size: str | None, window_plan: Any, window_shift: int | None, memory: float | None, decode_tiles: bool
) -> GenerateArguments:
    """Return the arguments of `Pipeline.request` that the options stand for.

    Raises
    ------
    click.UsageError : a size in another form, or options of windows without one.
    """
    arguments: GenerateArguments = {}
    if size is not None:
        match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", size.strip())
        if match is None:
            raise click.UsageError(f"--size {size}: wanted WIDTHxHEIGHT in pixels, such as 512x256")
        arguments["size"] = (int(match[1]), int(match[2]))
    else:
        for name, value in (("plan", window_plan), ("shift", window_shift)):
            if value is not None:
                raise click.UsageError(f"--window-{name} is about pictures larger than the training size, give --size")
        if memory is not None:
            raise click.UsageError("--memory is about pictures larger than the training size, give --size")
    if memory is not None and not math.isfinite(memory * 1e9):
        raise click.UsageError(f"--memory {memory}: wanted a number of gigabytes, such as 4")
    if window_plan is not None:
        arguments["window_plan"] = window_plan
    if window_shift is not None:
        arguments["window_shift"] = window_shift
    if memory is not None:
        arguments["memory_bytes"] = int(memory * 1e9)
    if decode_tiles:
        arguments["decode_tiles"] = True
    return arguments
