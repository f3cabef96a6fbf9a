"""Generated pictures in one .npz file, in the form that FID tools read.

``arr_0`` holds uint8 (N, H, W, 3); ``arr_1`` int64 (N,) class ids, for class models. Pictures are written as they
come: none is held in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trt_vqgan.atomic_file import replacing
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.images import ImageArray


@contextlib.contextmanager
def image_npz(
    path: str | os.PathLike[str], *, count: int, height: int, width: int, labels: Sequence[int] | None = None
) -> Iterator[Callable[[ImageArray], None]]:
    """Open ``path`` for ``count`` pictures of ``height`` x ``width``; the block gets a function that adds the next one.

    The file appears when the block ends well, with exactly ``count`` pictures in it.

    Raises
    ------
    ShapeError : a picture has another shape, or there were fewer or more than ``count``.
    OSError : the file can't be written.
    """
    shape = (height, width, 3)
    added = 0
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:

            def add(image: ImageArray) -> None:
                nonlocal added
                if image.dtype != np.uint8 or image.shape != shape or added == count:
                    raise ShapeError(f"{path}: picture {added} is {image.dtype} {image.shape}, wanted uint8 {shape}")
                member.write(np.ascontiguousarray(image).tobytes())
                added += 1

            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            yield add
            if added != count:
                raise ShapeError(f"{path}: got {added} pictures, wanted {count}")
        if labels is not None:
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(labels, dtype=np.int64), allow_pickle=False)
            archive.writestr("arr_1.npy", buffer.getvalue())
