"""What a PNG says about how it was made, so that it can be made again.

A tEXt chunk with the keyword "trt-vqgan" holds one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from PIL import Image, PngImagePlugin

from trt_vqgan.errors import ImageError, SpecError
from trt_vqgan.runtime.layouts import Layout
from trt_vqgan.spec import from_dict

KEYWORD = "trt-vqgan"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRecord:
    """Everything that decides a generated picture.

    Attributes
    ----------
    version : of this package.
    bundle_id : hash of the bundle's model and files.
    seed, picture : the random numbers' key.
    temperature, top_k, top_p, greedy : how codes were drawn; in numbers where nothing is cut: the vocabulary and 1.
    class_id, class_name : of a class model.
    condition_codes : (L,) codes of a condition that isn't a class: of a depth map, a layout, …; of a larger picture's
        map all its codes.
    layout : of a scene larger than the training size, whose windows have tokens of their own.
    codes : (h, w) codes of the picture, raster order.
    kept_codes : (h, w) codes that were kept of another picture, -1 where one was drawn; None where all were.
    pasted : whether the kept codes' pixels are the other picture's.
    guidance : None for none.
    window_shift, decode_tiles : of pictures larger than the training size.
    """

    version: str
    bundle_id: str
    seed: int
    picture: int
    temperature: float
    top_k: int
    top_p: float
    greedy: bool
    codes: tuple[tuple[int, ...], ...]
    class_id: int | None = None
    class_name: str | None = None
    condition_codes: tuple[int, ...] | None = None
    layout: Layout | None = None
    kept_codes: tuple[tuple[int, ...], ...] | None = None
    pasted: bool = False
    guidance: float | None = None
    window_shift: int = 1
    decode_tiles: bool = False
    schema: int = SCHEMA_VERSION

    def to_text_chunk(self) -> dict[str, str]:
        """Return the keyword and the ASCII text of the chunk."""
        return {KEYWORD: json.dumps(dataclasses.asdict(self), separators=(",", ":"), allow_nan=False)}


def read_generation_record(path: str | os.PathLike[str]) -> GenerationRecord:
    """Return what the PNG file ``path`` says about how it was made.

    Raises
    ------
    ImageError : no such file, no PNG, no such record in it, or one that this version can't read.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImagePlugin.PngImageFile)
            text = image.text.get(KEYWORD)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file, wanted a PNG that trt-vqgan made") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: can't be read as a PNG ({error})") from None
    if text is None:
        raise ImageError(
            f'{path}: has no "{KEYWORD}" text chunk, so how it was made is not known; wanted a PNG as '
            "`trt-vqgan generate` wrote it (other programs may drop the chunk)"
        )
    try:
        data = json.loads(text)
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA_VERSION:
            raise ImageError(f"{path}: its record has schema {schema!r}, this version reads {SCHEMA_VERSION}")
        record: GenerationRecord = from_dict(GenerationRecord, data, "record")
    except (SpecError, ValueError, RecursionError) as error:
        raise ImageError(f"{path}: its record of how it was made is damaged ({error})") from None
    return record
