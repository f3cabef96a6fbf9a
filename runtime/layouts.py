"""Scenes as boxes: the tokens of models that are conditioned on a layout.

A layout's tokens are three an object (class, upper left corner, lower right corner) or, for models of centre points,
two (class, centre of the box), padded with the vocabulary's last token, and, where the model encodes the crop, the
corners of the part of the scene that the picture shows. A place is one number: the picture is divided into S x S
sections, S the root of the vocabulary, rounded down.

Notes
-----
Follows the published ObjectsBoundingBoxConditionalBuilder and ObjectsCenterPointsConditionalBuilder: boxes that don't
meet the crop are dropped; with crop tokens the others keep their places in the whole scene, without them they are
placed in the crop. There boxes are shuffled for training; here their order stays, so that a layout always has the same
tokens. How many tokens a model takes doesn't tell the two apart (92 are 30 boxes and a crop, or 46 points, or 45 points
and a crop), so the bundle says it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError
from trt_vqgan.spec import LAYOUT_TOKENS, LayoutForm, fitting_layout_forms

Int64Array = npt.NDArray[np.int64]
Rectangle = tuple[float, float, float, float]
"""Left, top, width and height as fractions of the scene."""

WHOLE: Rectangle = (0.0, 0.0, 1.0, 1.0)
OVERHANG = 1e-6
"""A box may reach so far out of the scene by rounding."""

ATTRIBUTES = ("group", "occluded", "depiction", "inside")
"""Attributes of an object, in the order of their bits (1, 2, 4, 8); COCO's models know the first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutBox:
    """An object: its class token, attributes included, and where it is."""

    token: int
    box: Rectangle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Objects of a scene, and the part of it that the picture shows."""

    boxes: tuple[LayoutBox, ...]
    crop: Rectangle = WHOLE


def read_layouts(value: object, classes: Sequence[str] = ()) -> list[Layout]:
    """Return layouts of what a user gives: one layout or a sequence of them.

    Parameters
    ----------
    value : `Layout`, or ``{"boxes": [{"class": name or id, "box": [x, y, width, height]}, …], "crop": [x, y, width,
        height]}`` in fractions of the scene; "crop" may be left out, and so may the outer object. A box may have
        "group", "occluded", "depiction" or "inside": true where the bundle names its classes.
    classes : names of the classes in the order of their ids; may be empty.

    Raises
    ------
    ConditionError : another form, an unknown class, or a box outside the scene.
    """
    if isinstance(value, Layout | Mapping):
        return [_layout(value, classes)]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ConditionError(f'layout: found {_kind(value)}, wanted an object with "boxes", or a list of them')
    if all(isinstance(item, Mapping) and "box" in item for item in value):
        return [_layout({"boxes": value}, classes)]
    return [_layout(item, classes) for item in value]


def layout_tokens(
    layout: Layout, *, form: LayoutForm | None, num_tokens: int, vocab_size: int, crop: Rectangle | None = None
) -> Int64Array:
    """Return a layout's tokens, int64 (num_tokens,).

    Parameters
    ----------
    form : what the tokens are; None where the bundle doesn't say, which is enough if their number allows one form only.
    num_tokens : tokens that the model takes.
    vocab_size : of the transformer; decides the sections and the placeholder.
    crop : part of the scene that is shown, instead of the layout's own: a window rebuilds its tokens with it.

    Raises
    ------
    ConditionError : more boxes than fit, a class outside the vocabulary, or a model whose tokens aren't known.
    """
    each, crop_tokens = LAYOUT_TOKENS[_known_form(form, num_tokens)]
    room = (num_tokens - crop_tokens) // each
    if len(layout.boxes) > room:
        raise ConditionError(f"layout: found {len(layout.boxes)} boxes, this model takes at most {room}")
    placeholder = vocab_size - 1
    sections = math.isqrt(vocab_size)
    if sections < 2:
        raise ConditionError(f"layout: a vocabulary of {vocab_size} has no sections for corners")
    shown = layout.crop if crop is None else crop
    frame = WHOLE if crop_tokens else shown
    tokens: list[int] = []
    for box in layout.boxes:
        if not 0 <= box.token < placeholder:
            raise ConditionError(f"layout: class token {box.token} is out of range, wanted 0 to {placeholder - 1}")
        if _overlap(box.box, shown) > 0:
            place = _placed(box.box, frame)
            tokens += [box.token, *(_corners(place, sections) if each == 3 else [_centre(place, sections)])]
    tokens += [placeholder] * (room * each - len(tokens))
    if crop_tokens:
        tokens += _corners(shown, sections)
    return np.array(tokens, dtype=np.int64)


def window_crop(top: int, left: int, *, side: int, height: int, width: int) -> Rectangle:
    """Return the part of a scene of ``height`` x ``width`` codes that a window of ``side`` codes shows."""
    return left / width, top / height, side / width, side / height


def _known_form(form: LayoutForm | None, num_tokens: int) -> LayoutForm:
    """Return what a model's layout tokens are, where that is known."""
    if form is not None:
        return form
    fitting = fitting_layout_forms(num_tokens)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ConditionError(
            f"layout: this model takes {num_tokens} tokens, which are no boxes and no points; give its tokens as "
            "condition_codes"
        )
    raise ConditionError(
        f"layout: this model takes {num_tokens} tokens, and neither its config nor their number says what they are; "
        f"export it again with --layout-form {', '.join(fitting[:-1])} or {fitting[-1]}, or give its tokens as "
        "condition_codes"
    )


def _layout(value: object, classes: Sequence[str]) -> Layout:
    if isinstance(value, Layout):
        return value
    if not isinstance(value, Mapping):
        raise ConditionError(f'layout: found {_kind(value)}, wanted an object with "boxes"')
    unknown = sorted(set(map(str, value)) - {"boxes", "crop"})
    if unknown:
        raise ConditionError(f'layout: unknown key {unknown[0]!r}, wanted "boxes" and perhaps "crop"')
    boxes = value.get("boxes")
    if not isinstance(boxes, Sequence) or isinstance(boxes, str | bytes):
        raise ConditionError(f'layout: "boxes" is {_kind(boxes)}, wanted a list')
    read = tuple(_box(box, f"layout: box {i}", classes) for i, box in enumerate(boxes))
    return Layout(boxes=read, crop=_rectangle(value.get("crop", WHOLE), "layout: crop"))


def _box(value: object, where: str, classes: Sequence[str]) -> LayoutBox:
    if not isinstance(value, Mapping):
        raise ConditionError(f'{where}: found {_kind(value)}, wanted an object with "class" and "box"')
    unknown = sorted(set(map(str, value)) - {"class", "box", *ATTRIBUTES})
    if unknown:
        raise ConditionError(f'{where}: unknown key {unknown[0]!r}, wanted "class", "box", {", ".join(ATTRIBUTES)}')
    for key in ("class", "box"):
        if key not in value:
            raise ConditionError(f"{where}: has no {key!r}")
    token = _class_token(value["class"], where, classes)
    bits = 0
    for bit, name in enumerate(ATTRIBUTES):
        flag = value.get(name, False)
        if not isinstance(flag, bool):
            raise ConditionError(f"{where}: {name!r} is {_kind(flag)}, wanted true or false")
        bits |= flag << bit
    if bits and not classes:
        raise ConditionError(
            f"{where}: attributes need the number of classes, and this bundle doesn't name its classes; "
            "export it again with --class-names, or give the token itself as the class"
        )
    return LayoutBox(token=token + bits * len(classes), box=_rectangle(value["box"], where))


def _class_token(value: object, where: str, classes: Sequence[str]) -> int:
    if isinstance(value, str) and value in classes:
        return list(classes).index(value)
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        known = f"wanted one of {_listed(classes)}" if classes else "and this bundle names no classes: give an id"
        raise ConditionError(f"{where}: class {value!r} is unknown, {known}")
    if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
        raise ConditionError(f"{where}: class is {_kind(value)}, wanted a name or an id")
    number = int(value)
    if number < 0 or (classes and number >= len(classes) << len(ATTRIBUTES)):
        raise ConditionError(f"{where}: class {number} is out of range")
    return number


def _rectangle(value: object, where: str) -> Rectangle:
    numbers = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes) else []
    if len(numbers) != 4 or not all(
        isinstance(number, int | float | np.integer | np.floating) and not isinstance(number, bool)
        for number in numbers
    ):
        raise ConditionError(f"{where}: found {value!r}, wanted [x, y, width, height] in fractions of the scene")
    x, y, width, height = (float(number) for number in numbers)
    if not (width > 0 and height > 0 and all(map(math.isfinite, (x, y, width, height)))):
        raise ConditionError(f"{where}: found width {width:g} and height {height:g}, wanted more than 0")
    if x < -OVERHANG or y < -OVERHANG or x + width > 1 + OVERHANG or y + height > 1 + OVERHANG:
        raise ConditionError(
            f"{where}: reaches from ({x:g}, {y:g}) to ({x + width:g}, {y + height:g}), outside the picture; "
            "wanted fractions from 0 to 1, not pixels"
        )
    return x, y, width, height


def _overlap(first: Rectangle, second: Rectangle) -> float:
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(0.0, across) * max(0.0, down)


def _placed(box: Rectangle, frame: Rectangle) -> Rectangle:
    """Return ``box`` in fractions of ``frame``, its corner moved inside and its size cut at the far edges."""
    x = min(max((box[0] - frame[0]) / frame[2], 0.0), 1.0)
    y = min(max((box[1] - frame[1]) / frame[3], 0.0), 1.0)
    return x, y, min(box[2] / frame[2], 1 - x), min(box[3] / frame[3], 1 - y)


def _corners(box: Rectangle, sections: int) -> list[int]:
    x, y, width, height = box
    return [_section(x, y, sections), _section(x + width, y + height, sections)]


def _centre(box: Rectangle, sections: int) -> int:
    x, y, width, height = box
    return _section(x + width / 2, y + height / 2, sections)


def _section(x: float, y: float, sections: int) -> int:
    # Python's round, half to even, is the published one
    return round(y * (sections - 1)) * sections + round(x * (sections - 1))


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} … ({len(names)} classes; `trt-vqgan info` lists them)"
