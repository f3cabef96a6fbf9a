"""``--demo``: the models that ship with the package, and the maps that they are shown with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli.conditions import file_condition
from trt_vqgan.cli.options import FILE_CONDITIONS
from trt_vqgan.runtime.demos import DEMOS, demo_bundle, example_maps

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.fitting import Fit
    from trt_vqgan.runtime.pipeline import Pipeline

demo_option = click.option(
    "--demo",
    type=click.Choice(DEMOS),
    help="A model that ships with the package, instead of BUNDLE; without a map of yours, those that ship with it "
    "are taken in turn.  [default: class]",
)


def chosen_bundle(bundle: Path | None, demo: str | None) -> Path | None:
    """Return the bundle that BUNDLE and ``--demo`` name; None for neither."""
    if bundle is not None and demo is not None:
        raise click.UsageError(f"BUNDLE and --demo {demo} both name a model, choose one")
    return bundle if demo is None else demo_bundle(demo)


def takes_examples(demo: str | None, settings: Mapping[str, Any]) -> bool:
    """Return whether a demo is to be shown with the maps that ship: it needs one, and no option gave a condition."""
    given = any(settings[name] is not None for name in (*FILE_CONDITIONS, "condition_codes")) or settings["classes"]
    return demo is not None and not given and bool(example_maps(demo))


def example_codes(pipeline: Pipeline, demo: str, *, fit: Fit, size: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """Return the codes of the maps that ship for a demo, int64 (B, h, w) or (B, L), in the order of their names."""
    import numpy as np

    codes = [file_condition(pipeline, {demo: path}, fit, size) for path in example_maps(demo)]
    return np.concatenate([found for found in codes if found is not None])
