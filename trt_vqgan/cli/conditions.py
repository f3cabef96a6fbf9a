"""What a model's pictures are to be made of: ``--class``, ``--condition-codes``, ``--depth`` and their kind."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trt_vqgan.errors import ConditionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.manifest import Manifest
    from trt_vqgan.runtime.fitting import Fit
    from trt_vqgan.runtime.layouts import Layout
    from trt_vqgan.runtime.pipeline import Pipeline

KEYS = ("condition_codes", "codes")
FILE_OPTIONS: dict[str | None, str] = {
    "depth": "--depth IMG",
    "segmentation": "--segmentation IMG",
    "layout": "--layout JSON",
    "image": "--image IMG",
}
"""Options that name a file to make the condition of, by the pipeline's argument."""


def class_ids(manifest: Manifest, classes: Sequence[str]) -> list[int]:
    """Return the ids that ``--class`` names, in order; for ``all`` and for none, all that stand for a class.

    Raises
    ------
    ConditionError : the model has no classes, or not this one.
    """
    from trt_vqgan.runtime.conditions import class_tokens

    condition = manifest.model.condition
    if condition is None or condition.kind != "class":
        if classes:
            raise ConditionError(
                f"--class {classes[0]}: this model has no classes, it is {model_kind(manifest)}; leave --class out"
            )
        return []
    if "all" in classes and "all" not in manifest.class_names:
        if len(classes) > 1:
            raise click.UsageError("--class all stands for every class, give it alone")
        classes = ()
    if not classes:
        return [class_id for class_id in range(condition.num_classes) if class_id != manifest.null_class]
    return [int(token) for token in class_tokens(list(classes), condition, manifest.class_names)[:, 0]]


def model_kind(manifest: Manifest) -> str:
    """Return what the model is, in words."""
    condition = manifest.model.condition
    if condition is None:
        return "an autoencoder without a transformer"
    if condition.kind == "autoencoder":
        shared = "the picture's own autoencoder"
        return f"conditioned on codes of {shared if condition.shares_first_stage else condition.modality}"
    return {
        "unconditional": "unconditional",
        "class": "class-conditional",
        "coordinates": "conditioned on coordinates",
        "boxes": "conditioned on boxes",
    }[condition.kind]


def check_condition(
    manifest: Manifest,
    condition_codes: Path | None,
    classes: Sequence[str],
    files: Mapping[str, Path | None] | None = None,
    *,
    shift_labels: bool = False,
) -> None:
    """Raise unless the model can make pictures from the options that were given.

    Parameters
    ----------
    files : values of the options of `FILE_OPTIONS`; None for commands that don't have them.

    Raises
    ------
    ConditionError : the model makes no pictures, or needs a condition that no option gave.
    click.UsageError : two options give the condition, or there are labels to shift and no label map.
    """
    from trt_vqgan.runtime.condition_encoder import argument_name

    condition = manifest.model.condition
    if condition is None:
        raise ConditionError(
            "this bundle is an autoencoder without a transformer, it can't generate or score; "
            "`trt-vqgan reconstruct`, `encode` and `decode` work with it"
        )
    named = [name for name, path in (files or {}).items() if path is not None]
    given = [f"--{name}" for name in named] + ["--class"] * bool(classes)
    given += ["--condition-codes"] * (condition_codes is not None)
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} both give the condition, choose one")
    if shift_labels and "segmentation" not in named:
        raise click.UsageError("--shift-labels is about a label map, give --segmentation IMG too")
    wanted = argument_name(condition)
    if named and named[0] != wanted:
        takes = f"give {FILE_OPTIONS[wanted]} instead" if wanted in FILE_OPTIONS else f"leave --{named[0]} out"
        raise ConditionError(f"--{named[0]}: this model takes no {named[0]}, it is {model_kind(manifest)}; {takes}")
    # A coordinate model makes the coordinates of a whole picture itself.
    if condition_codes is None and not named and condition.kind in ("autoencoder", "boxes"):
        codes = f"--condition-codes FILE.npz with {condition.num_tokens} codes a picture"
        needs = f"{FILE_OPTIONS[wanted]} or {codes}" if files is not None and wanted is not None else codes
        raise ConditionError(f"this model is {model_kind(manifest)} and needs {needs}")


def file_condition(
    pipeline: Pipeline,
    files: Mapping[str, Path | None],
    fit: Fit,
    size: tuple[int, int] | None = None,
    *,
    shift_labels: bool = False,
) -> npt.NDArray[np.int64] | None:
    """Return the condition that an option of `FILE_OPTIONS` gave as codes, int64 (B, L) or (B, h, w); None for none.

    ``size`` is (width, height) in pixels of a picture larger than the training size.

    Raises
    ------
    ImageError, ConditionError : the file can't be read, or doesn't fit the model.
    """
    from trt_vqgan.runtime import condition_files
    from trt_vqgan.runtime.images import read_image

    given = next(((name, path) for name, path in files.items() if path is not None), None)
    if given is None:
        return None
    name, path = given
    condition = pipeline.manifest.model.condition
    if name == "depth":
        return pipeline.encode_condition(depth=condition_files.read_depth(path), fit=fit, size=size)
    if name == "segmentation":
        assert condition is not None
        assert condition.autoencoder is not None, "check_condition lets only models with label maps through"
        labels = condition_files.read_segmentation(
            path, num_labels=condition.autoencoder.in_channels, shift_labels=shift_labels
        )
        return pipeline.encode_condition(segmentation=labels, fit=fit, size=size)
    if name == "layout":
        return pipeline.encode_condition(layout=file_layout(pipeline, path))
    return pipeline.encode_condition(image=read_image(path), fit=fit, size=size)


def file_layout(pipeline: Pipeline, path: Path) -> list[Layout]:
    """Return the boxes in a JSON file, as `Pipeline.generate` takes them."""
    from trt_vqgan.runtime.condition_files import read_layout

    return read_layout(path, pipeline.manifest.layout_classes)


def read_codes(path: Path, keys: Sequence[str] = KEYS) -> npt.NDArray[np.int64]:
    """Return the integer codes in an .npz file, int64 (B, L) or (B, h, w).

    Raises
    ------
    ConditionError : no such file, no .npz, no array of these names, or no integers in it.
    """
    import numpy as np

    if not path.is_file():
        raise ConditionError(f"{path}: no such file, wanted an .npz with an array {' or '.join(map(repr, keys))}")
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise ConditionError(f"{path}: is a single array, wanted an .npz with {' or '.join(map(repr, keys))}")
            # NumPy takes anything else for a pickle, and its message says how to execute it
            if not zipfile.is_zipfile(file):
                raise ConditionError(f"{path}: is no .npz, wanted one with an array {' or '.join(map(repr, keys))}")
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            key = next((key for key in keys if key in names), None)
            if key is None:
                raise ConditionError(f"{path}: holds {', '.join(names) or 'nothing'}, wanted {' or '.join(keys)}")
            codes = arrays[key]
    # what NumPy and zipfile raise for a damaged file, an unknown or encrypted way of packing included
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        RuntimeError,
        MemoryError,
    ) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise ConditionError(f"{path}: can't be read as an .npz ({reason})") from None
    if codes.dtype.kind not in "iu":
        raise ConditionError(f"{path}: {key} is {codes.dtype}, wanted integers")
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise ConditionError(f"{path}: {key} has shape {codes.shape}, wanted (B, L) or (B, h, w)")
    found: npt.NDArray[np.int64] = codes.astype(np.int64)
    return found
