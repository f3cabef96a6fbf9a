"""``--class`` and ``--condition-codes``: what a model's pictures are to be made of."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trt_vqgan.errors import ConditionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.manifest import Manifest

KEYS = ("condition_codes", "codes")


def class_ids(manifest: Manifest, classes: Sequence[str]) -> list[int]:
    """Return the ids that ``--class`` names, in order; all of them for ``all`` and for none.

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
        return list(range(condition.num_classes))
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


def check_condition(manifest: Manifest, condition_codes: Path | None, classes: Sequence[str]) -> None:
    """Raise unless the model can make pictures from the options that were given.

    Raises
    ------
    ConditionError : the model makes no pictures, or needs a condition that no option gave.
    click.UsageError : two options give the condition.
    """
    condition = manifest.model.condition
    if condition is None:
        raise ConditionError(
            "this bundle is an autoencoder without a transformer, it can't generate or score; "
            "`trt-vqgan reconstruct`, `encode` and `decode` work with it"
        )
    if condition_codes is not None and classes:
        raise click.UsageError("--class and --condition-codes both give the condition, choose one")
    # A coordinate model makes the coordinates of a whole picture itself.
    if condition_codes is None and condition.kind in ("autoencoder", "boxes"):
        raise ConditionError(
            f"this model is {model_kind(manifest)} and needs --condition-codes FILE.npz with {condition.num_tokens} "
            + (
                "codes a picture"
                if condition.kind == "boxes"
                else "codes a picture; Pipeline.encode_condition makes them"
            )
        )


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
        with np.load(path, allow_pickle=False) as arrays:
            names = getattr(arrays, "files", None)
            if names is None:
                raise ConditionError(f"{path}: is a single array, wanted an .npz with {' or '.join(map(repr, keys))}")
            key = next((key for key in keys if key in names), None)
            if key is None:
                raise ConditionError(f"{path}: holds {', '.join(names) or 'nothing'}, wanted {' or '.join(keys)}")
            codes = arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ConditionError(f"{path}: can't be read as an .npz ({error})") from None
    if codes.dtype.kind not in "iu":
        raise ConditionError(f"{path}: {key} is {codes.dtype}, wanted integers")
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise ConditionError(f"{path}: {key} has shape {codes.shape}, wanted (B, L) or (B, h, w)")
    found: npt.NDArray[np.int64] = codes.astype(np.int64)
    return found
