"""``--init``, ``--keep``, ``--resample`` and ``--paste``: pictures made from a part of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options
from trt_vqgan.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.requests import GenerateArguments


def editing_options(function: Any) -> Any:
    """Add the options of pictures made from a part of another."""
    for option in (
        click.option("--paste", is_flag=True, help="Take the kept codes' pixels from --init, with a blended seam."),
        click.option(
            "--resample",
            type=click.FloatRange(0, 1, min_open=True),
            metavar="SHARE",
            help="Draw this share of the codes of --init again, chosen by the seed: variations.",
        ),
        click.option(
            "--keep",
            metavar="PART",
            help="What stays of --init: top, bottom, left, right, X,Y,W,H in its pixels, or MASK.png (white stays).",
        ),
        click.option("--init", type=options.PATH, metavar="IMG", help="Make a part of this picture anew."),
    ):
        function = option(function)
    return function


def editing_arguments(*, init: Path | None, keep: str | None, resample: float | None, paste: bool) -> GenerateArguments:
    """Return the arguments of `Pipeline.generate` that the options stand for.

    Raises
    ------
    click.UsageError : an option without --init, or --init without a part that stays.
    ImageError, ShapeError : a picture or mask can't be read, or don't fit each other.
    """
    from trt_vqgan.runtime.images import read_image

    if init is None:
        for name, value in (("--keep", keep), ("--resample", resample), ("--paste", paste or None)):
            if value is not None:
                raise click.UsageError(f"{name} is about a picture, give --init IMG too")
        return {}
    if keep is None and resample is None:
        raise click.UsageError("--init needs --keep, the part that stays, or --resample, the share drawn again")
    picture = read_image(init)
    arguments: GenerateArguments = {"init": picture, "paste": paste, "resample": resample}
    if keep is not None:
        arguments["keep"] = _mask(keep, init, picture)
    return arguments


def _mask(keep: str, init: Path, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    from trt_vqgan.runtime.condition_files import read_mask
    from trt_vqgan.runtime.editing import is_region, region_mask

    height, width = picture.shape[:2]
    if is_region(keep):
        return region_mask(keep, height, width)
    if not Path(keep).is_file():
        raise click.UsageError(f"--keep {keep}: wanted top, bottom, left, right, X,Y,W,H or the file of a mask")
    mask = read_mask(keep)
    if mask.shape != (height, width):
        raise ImageError(
            f"{keep}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, {init} has {width} x {height}; "
            "wanted the same size"
        )
    return mask
