"""What the PNG of a generated picture says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.runtime.png_metadata import GenerationRecord
from trt_vqgan.runtime.requests import Request

if TYPE_CHECKING:
    from trt_vqgan.runtime.pipeline import Pipeline

Grid = tuple[tuple[int, ...], ...]


def as_grid(codes: npt.NDArray[np.int64]) -> Grid:
    """Return codes (h, w) as tuples of Python's integers."""
    return tuple(tuple(int(code) for code in row) for row in codes)


def record_of(pipeline: Pipeline, request: Request, picture: int, codes: npt.NDArray[np.int64]) -> GenerationRecord:
    """Return what the PNG of a picture says: its number, and codes (h, w)."""
    index = picture - request.first_picture
    condition = request.conditions[index]
    spec = pipeline.spec
    assert spec.condition is not None
    assert spec.transformer is not None
    class_id = int(condition[0]) if spec.condition.kind == "class" else None
    names = pipeline.manifest.class_names
    layouts = () if request.windows is None else request.windows.layouts
    # a larger scene's tokens are made of its layout, window by window
    is_told = bool(layouts) or spec.condition.kind in ("class", "unconditional")
    sampling = request.sampling
    return GenerationRecord(
        version=trt_vqgan.__version__,
        bundle_id=pipeline.bundle_id,
        seed=request.seed,
        picture=picture,
        temperature=sampling.temperature,
        # Every code, in numbers: a record must not depend on a bundle's defaults.
        top_k=sampling.top_k if sampling.top_k is not None else spec.transformer.vocab_size,
        top_p=sampling.top_p,
        greedy=sampling.greedy,
        codes=as_grid(codes),
        class_id=class_id,
        class_name=names[class_id] if names and class_id is not None else None,
        condition_codes=None if is_told else tuple(int(code) for code in condition),
        layout=layouts[index % len(layouts)] if layouts else None,
        kept_codes=None if request.kept is None else as_grid(request.kept[index].reshape(codes.shape)),
        pasted=request.originals is not None,
        guidance=None if request.guidance is None else request.guidance.scale,
        window_shift=1 if request.windows is None else request.windows.shift,
        decode_tiles=request.decode_tiles,
    )
