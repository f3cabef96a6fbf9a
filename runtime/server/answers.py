"""Finished pictures as bytes: PNG, WebP, and JSON that carries them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_vqgan.runtime.images import encode_png
from trt_vqgan.runtime.picture_records import as_grid, record_of
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import Request
from trt_vqgan.runtime.server.events import PictureMade, PreviewMade

ImageArray = npt.NDArray[np.uint8]

PREVIEW_QUALITY = 75


def png_of(pipeline: Pipeline, request: Request, made: PictureMade) -> bytes:
    """Return a PNG that carries its settings, so that ``trt-vqgan generate --from`` makes it again."""
    assert made.image is not None
    record = record_of(pipeline, request, request.first_picture + made.index, made.codes)
    return encode_png(made.image, record.to_text_chunk())


def webp_of(image: ImageArray, *, quality: int | None = None) -> bytes:
    """Return a WebP file of ``image`` uint8 (H, W, 3), lossless unless a quality is given."""
    buffer = io.BytesIO()
    settings: dict[str, Any] = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
    Image.fromarray(image).save(buffer, format="WEBP", **settings)
    return buffer.getvalue()


def data_url(data: bytes, kind: str) -> str:
    """Return bytes of a media type as a ``data:`` URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_json(pipeline: Pipeline, request: Request, made: PictureMade) -> dict[str, Any]:
    """Return one picture of an answer in JSON."""
    spec = pipeline.spec
    found: dict[str, Any] = {"picture": request.first_picture + made.index, "index": made.index}
    if spec.condition is not None and spec.condition.kind == "class":
        found["class_id"] = int(request.conditions[made.index, 0])
        names = pipeline.manifest.class_names
        found["class_name"] = names[found["class_id"]] if names else None
    if made.image is not None:
        found["image"] = data_url(png_of(pipeline, request, made), "image/png")
    found["codes"] = as_grid(made.codes)
    return found


def request_json(pipeline: Pipeline, request: Request, *, alone: str) -> dict[str, Any]:
    """Return what an answer says about all its pictures."""
    sampling = request.sampling
    return {
        "bundle_id": pipeline.bundle_id,
        "backend": pipeline.backend,
        "seed": request.seed,
        "n": request.count,
        "size": [request.size[1], request.size[0]],
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "greedy": sampling.greedy,
            "guidance": None if request.guidance is None else request.guidance.scale,
        },
        "batched": not alone,
        "why_not_batched": alone or None,
    }


def preview_json(request: Request, shown: PreviewMade, *, codes: int) -> dict[str, Any]:
    """Return a preview, of ``codes`` codes in all."""
    return {
        "picture": request.first_picture + shown.index,
        "index": shown.index,
        "done": shown.done_codes,
        "total": codes,
        "image": data_url(webp_of(shown.image, quality=PREVIEW_QUALITY), "image/webp"),
    }
