"""``trt-vqgan score``: how likely pictures' codes are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.conditions import check_condition, class_ids, file_condition, read_codes
from trt_vqgan.cli.progress import PicturesProgress
from trt_vqgan.errors import ConditionError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.fitting import Fit
    from trt_vqgan.runtime.pipeline import Pipeline

    Int64Array = npt.NDArray[np.int64]


@click.command(short_help="Say how likely pictures' codes are.")
@options.bundle_argument
@click.argument("images", type=options.PATH, nargs=-1, required=True, metavar="IMG...")
@options.class_option
@options.file_condition_options
@options.condition_codes_option
@options.running_options
def score(
    bundle: Path,
    images: tuple[Path, ...],
    backend: str,
    device: str | None,
    threads: int | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Print the negative log-likelihood of the codes of each IMG, given a condition.

    A row a picture and condition: a class model without --class is asked for each of its classes. A picture of another
    size than the model's is fitted to it where --fit says how.
    """
    for image in images:
        if not image.is_file():
            raise ImageError(f"{image}: no such file, wanted a picture")
    rows: list[dict[str, Any]] = []
    with options.open_bundle(bundle, backend=backend, device=device, threads=threads) as pipeline:
        conditions = _conditions(pipeline, settings)
        with PicturesProgress(len(images), quiet=as_json) as progress:
            for image in images:
                codes = pipeline.encode(_picture(pipeline, image, settings["fit"])[None])
                for about, condition in conditions:
                    row = {"image": str(image)} | about | _likelihood(pipeline.score(codes, condition))
                    rows.append(row)
                    if not as_json:
                        progress.echo(_line(row))
                progress.finished()
        if as_json:
            report = {
                "bundle_id": pipeline.bundle_id,
                "backend": pipeline.backend,
                "images": [str(image) for image in images],
                "codes": pipeline.spec.num_codes,
                "scores": rows,
            }
            click.echo(json.dumps(report))
        else:
            click.echo(options.say_backend(pipeline))


def _picture(pipeline: Pipeline, image: Path, fit: Fit | None) -> npt.NDArray[np.uint8]:
    from trt_vqgan.runtime.fitting import fit_picture
    from trt_vqgan.runtime.images import read_image

    picture = read_image(image)
    side = pipeline.spec.autoencoder.resolution
    if fit is not None:
        return fit_picture(picture, side, side, fit=fit)
    if picture.shape[:2] != (side, side):
        raise ImageError(
            f"{image}: has {picture.shape[1]} x {picture.shape[0]} pixels, this model scores pictures of "
            f"{side} x {side}; give --fit crop, pad or stretch, or scale it first"
        )
    return picture


def _likelihood(nats: npt.NDArray[np.float32]) -> dict[str, float]:
    per_code = float(nats.mean())
    return {"nll_nats": float(nats.sum()), "nats_per_code": per_code, "bits_per_code": per_code / math.log(2)}


def _line(row: dict[str, Any]) -> str:
    name = row.get("class_name") or row.get("class_id")
    return (
        f"{row['image']}  {'' if name is None else f'class {name}  '}{row['nll_nats']:.2f} nats  "
        f"{row['nats_per_code']:.4f} nats a code  {row['bits_per_code']:.4f} bits a code"
    )


def _conditions(pipeline: Pipeline, settings: dict[str, Any]) -> list[tuple[dict[str, Any], Int64Array]]:
    """Return what is printed of each condition, and the condition as the pipeline takes it, one row."""
    manifest = pipeline.manifest
    classes, codes_file, shift = settings["classes"], settings["condition_codes"], settings["shift_labels"]
    files = {name: settings[name] for name in options.FILE_CONDITIONS}
    check_condition(manifest, codes_file, classes, files, shift_labels=shift)
    if codes_file is not None:
        given = read_codes(codes_file)
    else:
        found = file_condition(pipeline, files, settings["fit"] or "crop", shift_labels=shift)
        if found is None:
            return _named_conditions(pipeline, classes)
        given = found
    if len(given) != 1:
        source = codes_file or next(path for path in files.values() if path is not None)
        raise ConditionError(f"{source}: holds {len(given)} conditions, wanted one that all pictures are scored with")
    return [({}, given)]


def _named_conditions(pipeline: Pipeline, classes: tuple[str, ...]) -> list[tuple[dict[str, Any], Int64Array]]:
    """Return the conditions that no file gives: classes, and those that the model makes itself."""
    manifest = pipeline.manifest
    ids = class_ids(manifest, classes)
    condition = manifest.model.condition
    assert condition is not None, "check_condition lets no bundle without a transformer through"
    if condition.kind != "class":
        return [({}, pipeline.encode_condition())]
    names = manifest.class_names
    return [
        (
            {"class_id": class_id, "class_name": names[class_id] if names else None},
            pipeline.encode_condition(class_id=class_id),
        )
        for class_id in ids
    ]
