"""Files of safetensors: where each tensor lies.

The format: eight bytes with the length of the header (little-endian), a JSON header ``{name: {"dtype", "shape",
"data_offsets": [begin, end]}, "__metadata__": {...}}``, then the elements, C-contiguous and little-endian.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.pickle_machine import DamagedFileError
from trt_vqgan.export.stored_tensor import DTYPES, FileStamp, StoredTensor, contiguous_strides
from trt_vqgan.export.torch_file import StateFile, Unreadable

_MAX_HEADER_BYTES = 16 << 20
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors_file(path: Path) -> StateFile:
    """Return the tensors of a safetensors file.

    Raises
    ------
    CheckpointError : the file can't be read or doesn't follow the format.
    """
    try:
        file = FileStamp.of(path)
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, file.size - 8):
                raise DamagedFileError(f"its header claims {length} bytes, the file has {max(file.size - 8, 0)}")
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise DamagedFileError("its header is no JSON object")
        tensors = {
            name: _place(file, 8 + length, name, entry) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} can't be read as a safetensors file: {error or type(error).__name__}") from error
    return StateFile(tensors)


def _place(file: FileStamp, base: int, name: str, entry: object) -> StoredTensor | Unreadable:
    if not isinstance(entry, dict):
        raise DamagedFileError(f"the header's entry {name!r} is no JSON object")
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise DamagedFileError(f"the header's entry {name!r} has no valid shape and data_offsets")
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        return Unreadable(f"its element type {entry.get('dtype')!r} is not supported")
    begin, end = offsets
    if not begin <= end <= file.size - base or end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise DamagedFileError(f"tensor {name!r} claims bytes {begin} to {end} for shape {shape}, which can't be")
    return StoredTensor(file, base + begin, dtype, shape, contiguous_strides(shape))


def _counts(value: object) -> tuple[int, ...] | None:
    """Return a JSON list of whole numbers of at least 0 as a tuple; None for anything else."""
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return None
    return tuple(value)
