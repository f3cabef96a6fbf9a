"""What a request for pictures may say, in JSON or as a form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trt_vqgan.runtime.server.problems import Problem

MAX_SEED = (1 << 64) - 1

ImageText = Annotated[
    str, Field(description="An image file (PNG, JPEG, WebP, GIF or BMP) in base64, or as a data: URL.")
]
Format = Literal["json", "png", "webp", "codes"]


class Body(BaseModel):
    """A body whose unknown members, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


class GenerateBody(Body):
    """A request for pictures. What is left out is as `trt-vqgan generate` has it."""

    class_id: int | str | list[int | str] | None = Field(
        None, alias="class", description="Id or name of a class, or several: one picture each."
    )
    depth: ImageText | None = Field(None, description="Depth map: a grey picture, or float32 in the bytes of RGBA.")
    segmentation: ImageText | None = Field(None, description="Label map: a grey or palette picture of label ids.")
    image: ImageText | None = Field(None, description="Condition of a model that makes pictures of pictures.")
    layout: dict[str, Any] | list[Any] | None = Field(
        None, description='{"boxes": [{"class": NAME_OR_ID, "box": [x, y, width, height]}, …]}, in fractions.'
    )
    condition_codes: list[list[int]] | None = Field(None, description="The condition as tokens, (B, L).")
    shift_labels: bool = False
    fit: Literal["crop", "pad", "stretch"] = "crop"
    init: ImageText | None = Field(None, description="Picture of which a part stays.")
    mask: ImageText | None = Field(None, description="What stays of it: white, or opaque; as large as it.")
    keep: str | None = Field(None, description="Instead of a mask: top, bottom, left, right or X,Y,W,H in pixels.")
    paste: bool = False
    resample: float | None = None
    size: str | tuple[int, int] | None = Field(None, description="Pixels: 512x256, or [512, 256].")
    window_shift: int = 1
    decode_tiles: bool = False
    n: int | None = Field(None, description="Pictures; one a condition by default.")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    first_picture: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    guidance: float | None = None
    format: Format | None = Field(
        None, description="json (pictures as data: URLs, and codes), codes (JSON without pictures), png or webp (one "
        "picture). By default what the Accept header names, else json."
    )  # fmt: skip
    stream: bool = Field(False, description="Answer with server-sent events: previews, pictures, done or error.")
    preview_every: int | None = Field(None, ge=1, description="Codes between two previews; a row by default.")
    timeout: float | None = Field(None, gt=0, description="Seconds in which the pictures must be made.")


class DecodeBody(Body):
    """Codes to make pictures of."""

    codes: list[list[list[int]]] = Field(min_length=1, description="(B, h, w), as `/v1/encode` answers.")
    tiles: bool = Field(False, description="Decode in overlapping tiles, in bounded memory.")
    format: Literal["json", "png", "webp"] | None = None


class EncodeBody(Body):
    """A picture to make codes of."""

    image: ImageText
    fit: Literal["crop", "pad", "stretch"] | None = Field(
        None, description="Fit the picture to the training size; by default its sides must be multiples of the factor."
    )


def as_problem(error: ValidationError) -> Problem:
    """Return a body's first mistake as one message."""
    first, *more = error.errors(include_url=False, include_input=False)
    where = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("tuple[", "list[", "str", "dict["))
    )
    said = str(first["msg"])
    others = f" (and {len(more)} more)" if more else ""
    return Problem(400, f"{where or 'body'}: {said[:1].lower()}{said[1:]}{others}")
