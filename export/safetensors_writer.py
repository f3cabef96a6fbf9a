"""Weights into one file of the safetensors format, one tensor at a time.

The format: eight bytes with the length of the header (little-endian), a JSON header ``{name: {"dtype", "shape",
"data_offsets": [begin, end]}}``, then the elements, C-contiguous, little-endian and without gaps. The header is filled
with spaces so that the elements begin at a page boundary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_vqgan.errors import ExportError
from trt_vqgan.export.graph_builder import PAGE_BYTES, ArraySource, Place

_NAMES = {"float32": "F32", "float16": "F16"}


def place_tensors(path: Path, tensors: Mapping[str, ArraySource]) -> dict[str, Place]:
    """Return where `write_tensors` puts each tensor; offsets are those in the file."""
    begin = len(_head(tensors))
    places = {}
    for name, source in tensors.items():
        length = _num_bytes(source)
        places[name] = Place(file=path.name, offset=begin, length=length)
        begin += length
    return places


def write_tensors(path: Path, tensors: Mapping[str, ArraySource]) -> None:
    """Write tensors of float32 and float16 in the order of the mapping; each is read once and dropped.

    Raises
    ------
    ExportError : a float16 tensor that isn't finite.
    """
    with path.open("wb") as file:
        file.write(_head(tensors))
        for name, source in tensors.items():
            array = np.ascontiguousarray(np.asarray(source), dtype=source.dtype)
            if array.dtype == np.float16 and not np.isfinite(array).all():
                raise ExportError(f"weight {name!r} does not fit float16 (largest finite value 65504)")
            file.write(array.reshape(-1).view(np.uint8).data)


def _head(tensors: Mapping[str, ArraySource]) -> bytes:
    header: dict[str, Any] = {}
    begin = 0
    for name, source in tensors.items():
        end = begin + _num_bytes(source)
        dtype = _NAMES[np.dtype(source.dtype).name]
        header[name] = {"dtype": dtype, "shape": list(source.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % PAGE_BYTES)
    return len(text).to_bytes(8, "little") + text


def _num_bytes(source: ArraySource) -> int:
    return math.prod(source.shape) * int(np.dtype(source.dtype).itemsize)
