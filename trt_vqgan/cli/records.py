"""Between the record in a PNG and the request that makes its picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trt_vqgan.errors import BundleError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.layouts import Layout
    from trt_vqgan.runtime.picture_records import Grid
    from trt_vqgan.runtime.pipeline import Pipeline
    from trt_vqgan.runtime.png_metadata import GenerationRecord
    from trt_vqgan.runtime.requests import GenerateArguments

    ImageArray = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Again:
    """How a picture is made again.

    Attributes
    ----------
    arguments : of `Pipeline.request`.
    codes : that it must have.
    pasted : whether some of its pixels are another picture's, taken from the PNG.
    finish : applied to the decoded picture.
    """

    arguments: GenerateArguments
    codes: Grid
    pasted: bool
    finish: Callable[[ImageArray], ImageArray]


def made_again(pipeline: Pipeline, record: GenerationRecord, source: Path) -> Again:
    """Return how the picture in the PNG ``source``, which carries ``record``, is made again.

    Raises
    ------
    BundleError : another bundle made it.
    ImageError : it has pasted pixels, and the PNG isn't as large as the picture; or it is a larger scene without its
        layout.
    """
    import numpy as np

    if record.bundle_id != pipeline.bundle_id:
        raise BundleError(
            f"{source}: was made with bundle {record.bundle_id}, this is bundle {pipeline.bundle_id}; "
            "give the bundle that made it"
        )
    arguments: GenerateArguments = {
        "n": 1,
        "seed": record.seed,
        "first_picture": record.picture,
        "temperature": record.temperature,
        "top_k": record.top_k,
        "top_p": record.top_p,
        "greedy": record.greedy,
        "guidance": record.guidance,
        "class_id": record.class_id if record.condition_codes is None else None,
        "condition_codes": None if record.condition_codes is None else np.array([record.condition_codes]),
        "layout": None if record.layout is None else _plain_layout(record.layout),
        "kept_codes": None if record.kept_codes is None else np.array(record.kept_codes),
    }
    autoencoder = pipeline.spec.autoencoder
    grid = len(record.codes), len(record.codes[0])
    if grid != (autoencoder.latent_size,) * 2:
        condition = pipeline.spec.condition
        if condition is not None and condition.kind == "boxes" and record.layout is None:
            raise ImageError(
                f"{source}: is a larger picture of a scene model, and its record has no layout, which each window's "
                "tokens are made of; give the layout again (--layout JSON) with its other settings instead of --from"
            )
        arguments["size"] = (grid[1] * autoencoder.factor, grid[0] * autoencoder.factor)
        arguments["window_shift"] = record.window_shift
    arguments["decode_tiles"] = record.decode_tiles
    finish: Callable[[ImageArray], ImageArray] = lambda image: image  # noqa: E731
    if record.pasted and record.kept_codes is not None:
        finish = _paster(record.kept_codes, source, pipeline.spec.autoencoder.factor)
    return Again(arguments=arguments, codes=record.codes, pasted=record.pasted, finish=finish)


def _plain_layout(layout: Layout) -> dict[str, object]:
    """Return a layout as users give it, so that one from a file is checked as theirs are."""
    boxes = [{"class": box.token, "box": box.box} for box in layout.boxes]
    return {"boxes": boxes, "crop": layout.crop}


def _paster(kept: Grid, source: Path, factor: int) -> Callable[[ImageArray], ImageArray]:
    """Return what takes pasted and blended pixels from the PNG itself: nothing else holds them."""
    import numpy as np

    from trt_vqgan.runtime.editing import paste_share
    from trt_vqgan.runtime.images import read_image

    pixels = read_image(source)
    share = paste_share(np.array(kept) >= 0, factor)
    if share.shape != pixels.shape[:2]:
        raise ImageError(f"{source}: its size isn't that of the picture that its record describes")

    def finish(image: ImageArray) -> ImageArray:
        return np.where((share > 0)[:, :, None], pixels, image)

    return finish
