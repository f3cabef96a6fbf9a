"""A model's condition, whatever its kind, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError, ShapeError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime import conditions
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.buffers import with_host_arrays
from trt_vqgan.runtime.fitting import Fit, fit_labels, fit_scaled_depth
from trt_vqgan.runtime.layouts import layout_tokens, read_layouts
from trt_vqgan.runtime.memory import check_encode_memory
from trt_vqgan.runtime.picture_arrays import picture_maps
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ClassIds = int | str | Sequence[int | str]

CONDITION_ARGUMENTS = ("class_id", "depth", "segmentation", "coordinates", "layout", "image")
"""Names of the arguments that carry a condition; `condition_codes` is one of its own."""


class ConditionEncoder:
    """Conditions of one model.

    Parameters
    ----------
    manifest : the bundle's.
    autoencoder : what encodes a condition map; None for models whose condition has no VQGAN.
    """

    def __init__(self, manifest: Manifest, autoencoder: Autoencoder | None) -> None:
        self._manifest = manifest
        self._spec: ModelSpec = manifest.model
        self._autoencoder = autoencoder

    @property
    def condition(self) -> ConditionSpec:
        """What the model takes.

        Raises
        ------
        ConditionError : the bundle is a VQGAN alone.
        """
        if self._spec.condition is None:
            raise ConditionError(
                "this bundle is a VQGAN without a transformer: it can encode, decode and reconstruct, not generate"
            )
        return self._spec.condition

    def encode(
        self, given: dict[str, Any], *, size: tuple[int, int], fit: Fit, shift_labels: bool = False
    ) -> Int64Array:
        """Return a condition as tokens: int64 (B, L), or (B, h, w) in raster order.

        Parameters
        ----------
        given : values by the names of `CONDITION_ARGUMENTS`; None is as good as nothing.
        size : height and width in pixels of the picture to be made; maps of another size are fitted to it.
        fit : how.
        shift_labels : read label ids as `conditions.shifted_labels`.

        Raises
        ------
        ConditionError : another kind than the model's, or none where it needs one; labels to shift, and none given.
        ShapeError : a wrong shape, dtype or value range.
        """
        condition = self.condition
        given = with_host_arrays({name: value for name, value in given.items() if value is not None})
        self._check_kind(set(given))
        if shift_labels:
            if "segmentation" not in given:
                raise ConditionError("shift_labels is about label ids: give segmentation too, or leave it out")
            given["segmentation"] = conditions.shifted_labels(given["segmentation"])
        assert self._spec.transformer is not None
        vocab_size = self._spec.transformer.vocab_size
        if condition.kind == "unconditional":
            return np.array([[condition.sos_token]], dtype=np.int64)
        if condition.kind == "class":
            return conditions.class_tokens(given["class_id"], condition, self._manifest.class_names)
        if condition.kind == "coordinates":
            chosen = given.get("coordinates")
            if chosen is None:
                chosen = conditions.position_coordinates(*size)
            return conditions.coordinate_tokens(chosen, condition, vocab_size)
        if condition.kind == "boxes":
            layouts = read_layouts(given["layout"], self._manifest.layout_classes)
            model: dict[str, Any] = {
                "form": self._manifest.layout_form,
                "num_tokens": condition.num_tokens,
                "vocab_size": vocab_size,
            }
            return np.stack([layout_tokens(layout, **model) for layout in layouts])
        return self._encode_map(next(iter(given.values())), size, fit)

    def tokens(self, cond: npt.ArrayLike) -> Int64Array:
        """Return condition codes (B, L), or (B, h, w) in raster order, of a training-size picture as int64 (B, L).

        Raises
        ------
        ShapeError, ConditionError : another number of tokens, no integers, or codes outside the vocabulary.
        """
        condition, transformer = self.condition, self._spec.transformer
        assert transformer is not None
        tokens = conditions.raw_tokens(cond, transformer.vocab_size)
        if tokens.shape[1] != condition.num_tokens:
            side = self._spec.autoencoder.resolution
            raise ShapeError(
                f"condition: found {tokens.shape[1]} tokens a picture, wanted {condition.num_tokens} for a picture of "
                f"{side}x{side} pixels"
            )
        return tokens

    def default_classes(self, count: int) -> Int64Array:
        """Return the first ``count`` classes, int64 (count or fewer, 1), without the one that stands for no class."""
        ids = [i for i in range(self.condition.num_classes) if i != self._manifest.null_class]
        return np.array(ids[:count], dtype=np.int64)[:, None]

    def null_tokens(self) -> Int64Array:
        """Return the tokens that stand for no condition, int64 (L,).

        Raises
        ------
        ConditionError : the bundle names none.
        """
        if self._manifest.null_class is None:
            kind = self.condition.kind
            raise ConditionError(
                "guidance needs a class that stands for no class, and this bundle names none; "
                + (
                    "if the model was trained with one, export it again with --null-class ID"
                    if kind == "class"
                    else f"only class models have one, this model is of the kind {kind!r}: leave guidance out"
                )
            )
        return np.array([self._manifest.null_class], dtype=np.int64)

    def _encode_map(self, value: npt.ArrayLike, size: tuple[int, int], fit: Fit) -> Int64Array:
        assert self._autoencoder is not None
        spec: AutoencoderSpec = self._autoencoder.spec
        side = self.condition.downsample_size
        if not side and size != (spec.resolution, spec.resolution):
            check_encode_memory(spec, size[1], size[0], what=spec.modality)
        if side and _sides(value, spec) == (side, side):
            size = side, side  # small already, as for upscaling: enlarging it would blur what is made small again
        if spec.modality == "depth":
            # scaled first, as published: a part that is cropped away counts for the picture's minimum and maximum
            maps = conditions.depth_map(value)
            if np.ndim(value) != 4:
                maps = fit_scaled_depth(maps, *size, fit=fit)
        elif spec.modality == "segmentation":
            labels = np.asarray(value)
            if labels.ndim in (2, 3) and labels.dtype.kind in "iu":
                labels = fit_labels(labels, *size, fit=fit)
            maps = conditions.segmentation_map(labels, spec.in_channels)
        else:
            maps = picture_maps(value, spec, size=size, fit=fit)
        if side:
            maps = conditions.resize_nearest(maps, side)
        return self._autoencoder.encode(maps)

    def _check_kind(self, given: set[str]) -> None:
        condition = self.condition
        wanted = argument_name(condition)
        foreign = sorted(given - ({wanted} if wanted else set()))
        if foreign:
            takes = f"it takes {wanted}" if wanted else "it takes no condition but condition_codes"
            raise ConditionError(f"this model ({condition.kind}) takes no {foreign[0]}; {takes}")
        if wanted and not given and condition.kind != "coordinates":
            raise ConditionError(f"this model needs a condition: give {wanted} (or condition_codes)")


def _sides(value: npt.ArrayLike, spec: AutoencoderSpec) -> tuple[int, ...]:
    """Return height and width of a condition map as it is given, whatever its form."""
    shape = np.shape(value)
    has_channels_last = spec.modality == "image" and np.asarray(value).dtype == np.uint8
    return shape[-3:-1] if has_channels_last else shape[-2:]


def argument_name(condition: ConditionSpec) -> str | None:
    """Return the name of the argument that carries this kind of condition."""
    if condition.kind == "autoencoder":
        return condition.modality or "image"
    return {"class": "class_id", "coordinates": "coordinates", "boxes": "layout"}.get(condition.kind)
