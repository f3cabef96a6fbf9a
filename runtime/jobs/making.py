"""One shard made: its codes and, unless they are left out, its pictures."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.images import encode_png
from trt_vqgan.runtime.picture_records import record_of
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import Request

Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeShard:
    """What a worker gives back.

    Attributes
    ----------
    pictures : int64 (n,), their numbers.
    codes : int64 (n, h, w), raster order.
    class_ids : int64 (n,) of a class model, else None.
    pngs : name and content of a file a picture; none where pictures are left out.
    seconds : that it took.
    """

    pictures: Int64Array
    codes: Int64Array
    class_ids: Int64Array | None
    pngs: tuple[tuple[str, bytes], ...]
    seconds: float


def make_shard(pipeline: Pipeline, request: Request, *, codes_only: bool) -> MadeShard:
    """Return the pictures of a shard's request."""
    start = time.perf_counter()
    pictures: list[int] = []
    codes: list[Int64Array] = []
    pngs: list[tuple[str, bytes]] = []
    if codes_only:
        for picture, grid in pipeline.draw(request):
            pictures.append(picture)
            codes.append(grid)
    else:
        for picture, grid, image in pipeline.run(request):
            pictures.append(picture)
            codes.append(grid)
            record = record_of(pipeline, request, picture, grid)
            pngs.append((picture_name(request.seed, picture), encode_png(image, record.to_text_chunk())))
    condition = pipeline.spec.condition
    is_class = condition is not None and condition.kind == "class"
    return MadeShard(
        pictures=np.array(pictures, dtype=np.int64),
        codes=np.stack(codes),
        class_ids=request.conditions[:, 0].copy() if is_class else None,
        pngs=tuple(pngs),
        seconds=time.perf_counter() - start,
    )


def picture_name(seed: int, picture: int) -> str:
    """Return the name of a picture's file, as `generate` gives it without shards."""
    return f"{seed}-{picture:05d}.png"
