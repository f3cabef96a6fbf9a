"""Bodies of requests as fields and files: JSON with files in base64, or a form."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import python_multipart  # noqa: F401  what Starlette reads forms with
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from trt_vqgan.errors import ConditionError, ImageError, ShapeError
from trt_vqgan.runtime import condition_files
from trt_vqgan.runtime.editing import region_mask
from trt_vqgan.runtime.image_files import InMemoryFile
from trt_vqgan.runtime.images import read_image
from trt_vqgan.runtime.requests import GenerateArguments
from trt_vqgan.runtime.server.bodies import Body, GenerateBody, as_problem
from trt_vqgan.runtime.server.problems import Problem
from trt_vqgan.spec import ModelSpec

MAX_FILES = 8
MAX_FIELDS = 256
MAX_FIELD_BYTES = 4 << 20

_DATA_URL = re.compile(r"data:[\w.+-]*/[\w.+-]*(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.ASCII)

Files = dict[str, InMemoryFile]
FILES = ("depth", "segmentation", "image", "init", "mask")


class _InMemoryParser(MultiPartParser):
    spool_max_size = 1 << 40  # bodies are bounded, and a full disk must be no reason to refuse one


async def read_body(request: Request, kind: type[Body]) -> tuple[Any, Files]:
    """Return a request's body, of ``kind``, and its files by field.

    Raises
    ------
    Problem : another content type, or a body that isn't what it says.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type == "application/json":
            body = kind.model_validate_json(await request.body())
            return body, _decoded_files(body, FILES)
        if content_type == "multipart/form-data":
            return await _read_form(request, kind)
    except ValidationError as error:
        raise as_problem(error) from None
    except ClientDisconnect:
        raise
    found = repr(content_type) if content_type else "none"
    raise Problem(415, f"content type: found {found}, wanted application/json or multipart/form-data")


async def _read_form(request: Request, kind: type[Body]) -> tuple[Any, Files]:
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        raise Problem(400, f"body: is no multipart/form-data ({error})") from None
    fields: dict[str, Any] = {}
    files: Files = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name != "layout":
                if name in files:
                    raise Problem(400, f"{name}: found two files, wanted one")
                files[name] = InMemoryFile(name, await value.read())
                continue
            text: Any = (await value.read()).decode("utf-8", "replace") if isinstance(value, UploadFile) else value
            if name in ("layout", "condition_codes", "codes"):
                text = _json(name, text)
            if name == "class":
                fields.setdefault(name, []).append(text)
            elif name in fields:
                raise Problem(400, f"{name}: found two values, wanted one")
            else:
                fields[name] = text
    finally:
        await form.close()
    known = {field.alias or name for name, field in kind.model_fields.items()}
    stray = next((name for name in files if name not in known or name not in FILES), None)
    if stray is not None:
        raise Problem(
            400, f"{stray}: is no file that this takes, wanted one of {', '.join(sorted(known & set(FILES)))}"
        )
    body = kind.model_validate(fields | dict.fromkeys(files, "a file of the form"))
    return body, files | _decoded_files(body, [name for name in FILES if name not in files])


def _decoded_files(body: Body, names: Iterable[str]) -> Files:
    """Return the files that a body has as text; an empty one is a file too, and none that can be read."""
    texts = {name: getattr(body, name, None) for name in names}
    return {name: _decoded(name, text) for name, text in texts.items() if text is not None}


def _json(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"{name}: is no JSON ({error})") from None


def _decoded(name: str, text: str) -> InMemoryFile:
    """Return a file in base64."""
    match = _DATA_URL.match(text[:200])
    encoded = text[match.end() :] if match else text
    try:
        return InMemoryFile(name, base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise Problem(400, f"{name}: is neither base64 nor a data: URL, wanted an image file in one of them") from None


def generate_arguments(body: GenerateBody, files: Files, spec: ModelSpec, *, max_pixels: int) -> GenerateArguments:
    """Return the arguments of `Pipeline.generate` that a body stands for. It decodes images, and blocks.

    Raises
    ------
    ImageError, ConditionError, ShapeError : a file or setting is wrong.
    """
    arguments: GenerateArguments = {
        "n": body.n,
        "seed": body.seed,
        "first_picture": body.first_picture,
        "class_id": body.class_id,
        "layout": body.layout,
        "condition_codes": None if body.condition_codes is None else _codes(body.condition_codes),
        "shift_labels": body.shift_labels,
        "fit": body.fit,
        "resample": body.resample,
        "paste": body.paste,
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "greedy": body.greedy,
        "guidance": body.guidance,
        "window_shift": body.window_shift,
        "decode_tiles": body.decode_tiles,
        "size": None if body.size is None else _size(body.size),
    }
    if "depth" in files:
        arguments["depth"] = condition_files.read_depth(files["depth"], max_pixels=max_pixels)
    if "segmentation" in files:
        arguments["segmentation"] = condition_files.read_segmentation(files["segmentation"], max_pixels=max_pixels)
    if "image" in files:
        arguments["image"] = read_image(files["image"], max_pixels=max_pixels)
    if "init" in files:
        arguments["init"] = init = read_image(files["init"], max_pixels=max_pixels)
        height, width = init.shape[:2]
        if "mask" in files and body.keep is not None:
            raise ShapeError("mask and keep: both say what stays, give one of them")
        if "mask" in files:
            mask = condition_files.read_mask(files["mask"], max_pixels=max_pixels)
            if mask.shape != (height, width):
                raise ImageError(
                    f"mask: has {mask.shape[1]} x {mask.shape[0]} pixels, init has {width} x {height}; wanted the same"
                )
            arguments["keep"] = mask
        elif body.keep is not None:
            arguments["keep"] = region_mask(body.keep, height, width)
    elif "mask" in files or body.keep is not None:
        raise ShapeError("mask and keep: wanted init too, the picture that they are about")
    return {name: value for name, value in arguments.items() if value is not None}  # type: ignore[return-value]


def _codes(rows: list[list[int]]) -> np.ndarray[Any, Any]:
    try:
        return np.array(rows, dtype=np.int64)
    except (ValueError, OverflowError):
        raise ConditionError(
            "condition_codes: found rows of different lengths, or numbers that are too large"
        ) from None


def _size(size: str | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size, re.ASCII)
    if match is None:
        raise ShapeError(f"size: found {size[:40]!r}, wanted WIDTHxHEIGHT in pixels, such as 512x256")
    return int(match[1]), int(match[2])
