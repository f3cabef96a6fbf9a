"""``trt-vqgan score``: how likely a picture's codes are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.conditions import check_condition, class_ids, read_codes
from trt_vqgan.errors import ConditionError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.pipeline import Pipeline


@click.command(short_help="Say how likely a picture's codes are.")
@options.bundle_argument
@click.argument("image", type=options.PATH, metavar="IMG")
@options.class_option
@options.condition_codes_option
@options.running_options
def score(
    bundle: Path,
    image: Path,
    classes: tuple[str, ...],
    condition_codes: Path | None,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Print the negative log-likelihood of the codes of IMG.

    A row a condition: a class model without --class is asked for each of its classes.
    """
    from trt_vqgan.runtime.images import read_image

    picture = read_image(image)
    with options.open_bundle(bundle, backend=backend, threads=threads) as pipeline:
        manifest = pipeline.manifest
        check_condition(manifest, condition_codes, classes)
        side = pipeline.spec.autoencoder.resolution
        if picture.shape[:2] != (side, side):
            raise ImageError(
                f"{image}: has {picture.shape[1]} x {picture.shape[0]} pixels, this model scores pictures of "
                f"{side} x {side}; scale or crop it first"
            )
        codes = pipeline.encode(picture[None])
        rows: list[dict[str, Any]] = []
        for row, condition in _conditions(pipeline, condition_codes, classes):
            nats = pipeline.score(codes, condition)
            per_code = float(nats.mean())
            rows.append(
                row
                | {
                    "nll_nats": float(nats.sum()),
                    "nats_per_code": per_code,
                    "bits_per_code": per_code / math.log(2),
                }
            )
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "bundle_id": pipeline.bundle_id,
                        "backend": pipeline.backend,
                        "image": str(image),
                        "codes": int(codes.size),
                        "scores": rows,
                    }
                )
            )
            return
        for row in rows:
            name = row.get("class_name") or row.get("class_id")
            click.echo(
                f"{image}  {'' if name is None else f'class {name}  '}{row['nll_nats']:.2f} nats  "
                f"{row['nats_per_code']:.4f} nats a code  {row['bits_per_code']:.4f} bits a code"
            )
        click.echo(options.say_backend(pipeline))


def _conditions(
    pipeline: Pipeline, condition_codes: Path | None, classes: tuple[str, ...]
) -> list[tuple[dict[str, Any], npt.NDArray[np.int64]]]:
    """Return what is printed of each condition, and the condition as the pipeline takes it, one row."""
    manifest = pipeline.manifest
    if condition_codes is not None:
        codes = read_codes(condition_codes)
        if len(codes) != 1:
            raise ConditionError(f"{condition_codes}: holds {len(codes)} conditions, wanted one for one picture")
        return [({}, codes)]
    condition = manifest.model.condition
    assert condition is not None, "check_condition lets no bundle without a transformer through"
    if condition.kind == "class":
        names = manifest.class_names
        return [
            (
                {"class_id": class_id, "class_name": names[class_id] if names else None},
                pipeline.encode_condition(class_id=class_id),
            )
            for class_id in class_ids(manifest, classes)
        ]
    class_ids(manifest, classes)
    return [({}, pipeline.encode_condition())]
