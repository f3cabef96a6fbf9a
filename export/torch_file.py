"""Files of ``torch.save``: where each tensor of the state dict lies, found without running anything from the file.

Two containers exist. Since torch 1.6 it is an uncompressed zip: ``NAME/data.pkl`` describes the objects, and the
elements of storage K are the entry ``NAME/data/K``. Before, it was five pickles (magic number, protocol, machine,
objects, storage keys) followed by the storages, each as an int64 count of elements and the elements. Both are read
here with `pickle_machine`, and tensors are left in the file. Optimizer state is never touched.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.pickle_machine import (
    MAX_PICKLE_BYTES,
    DamagedFileError,
    GlobalName,
    Opaque,
    Rebuilder,
    interpret,
)
from trt_vqgan.export.stored_tensor import DTYPES, FileStamp, StoredTensor, extent

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIMENSIONS = 16

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """An entry of the state dict that is no tensor this reader understands, and why."""

    reason: str


@dataclasses.dataclass(frozen=True)
class StateFile:
    """What a file of weights holds.

    Attributes
    ----------
    tensors : its state dict.
    others : names of what lies beside the state dict (optimizer states and the like), none of which was read.
    """

    tensors: Mapping[str, StoredTensor | Unreadable]
    others: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A persistent id: elements of one type; ``first`` and ``count`` say which part of storage ``key`` is meant."""

    key: str
    dtype: str | None
    first: int
    count: int
    whole: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Arguments of the call that would have rebuilt a tensor; strides and offset in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> StateFile:
    """Return the state dict of a file written by ``torch.save``.

    The state dict is the entry ``state_dict`` of the saved dict or, where there is no such entry, the saved dict.

    Raises
    ------
    CheckpointError : the file can't be read, is truncated or damaged, or holds no state dict.
    """
    try:
        file = FileStamp.of(path)
        with path.open("rb") as stream:
            head = stream.read(16)
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(file)
        if head.startswith(b"\x80"):
            return _read_legacy(file)
    except (
        DamagedFileError,
        zipfile.BadZipFile,
        NotImplementedError,
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        raise CheckpointError(f"{path} can't be read as a torch checkpoint: {error or type(error).__name__}") from error
    raise CheckpointError(f"{path} is no torch checkpoint: {_describe(head)}; download or save it again")


def _describe(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "found an HTML page"
    if head.startswith(b"version https://"):
        return "found a Git LFS pointer instead of the file"
    return f"it begins with {head[:8].hex(' ')}, wanted a zip archive or a pickle"


# The zip container


def _read_zip(file: FileStamp) -> StateFile:
    with zipfile.ZipFile(file.path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise DamagedFileError(f"found {len(roots)} entries NAME/data.pkl in the zip archive, wanted one")
    root = roots[0]
    if root + "constants.pkl" in entries:
        raise DamagedFileError("it is a TorchScript archive; save the model's state dict with torch.save instead")
    with file.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def span(name: str) -> tuple[int, int]:
            """Offset and length of an entry's bytes."""
            if name not in entries:
                raise DamagedFileError(f"entry {name} is missing from the zip archive")
            return _entry_span(data, entries[name])

        if root + "byteorder" in entries:
            start, length = span(root + "byteorder")
            order = data[start : start + min(length, 16)]
            if order.strip() != b"little":
                raise DamagedFileError(f"found byte order {order!r}, only little is supported")
        start, length = span(root + "data.pkl")
        if length > MAX_PICKLE_BYTES:
            raise DamagedFileError(f"data.pkl has {length} bytes, at most {MAX_PICKLE_BYTES} are read")
        top, _ = interpret(data[start : start + length], rebuilders=_REBUILDERS, persistent=_storage)

        def locate(storage: _Storage) -> tuple[int, int]:
            return span(f"{root}data/{storage.key}")

        return _state(file, top, locate)


def _entry_span(data: mmap.mmap, info: zipfile.ZipInfo) -> tuple[int, int]:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise DamagedFileError(f"entry {info.filename} is compressed or encrypted; torch.save stores it as it is")
    # The local header repeats name and extra field with lengths of its own: torch pads there to align the data.
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise DamagedFileError(f"entry {info.filename} has no local header at byte {info.header_offset}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > len(data):
        raise DamagedFileError(f"entry {info.filename} claims {info.file_size} bytes, the file ends before")
    return start, info.file_size


# The container of torch before 1.6


def _read_legacy(file: FileStamp) -> StateFile:
    with file.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, pos = interpret(data)
        if magic != _LEGACY_MAGIC:
            raise DamagedFileError("it is a pickle, but not one of torch.save (magic number missing)")
        protocol, pos = interpret(data, start=pos)
        if protocol != _LEGACY_PROTOCOL:
            raise DamagedFileError(f"found protocol {protocol!r:.40}, wanted {_LEGACY_PROTOCOL}")
        machine, pos = interpret(data, start=pos)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise DamagedFileError("it was not saved on a little-endian machine")
        wholes: dict[str, _Storage] = {}

        def remember(identity: object) -> object:
            storage = _storage(identity)
            if isinstance(storage, _Storage):
                wholes[storage.key] = storage
            return storage

        top, pos = interpret(data, start=pos, rebuilders=_REBUILDERS, persistent=remember)
        keys, pos = interpret(data, start=pos)
        if not isinstance(keys, list):
            raise DamagedFileError("the list of storages is missing")
        spans: dict[str, tuple[int, int]] = {}
        for key in keys:
            storage = wholes.get(key) if isinstance(key, str) else None
            if storage is None or storage.dtype is None:
                raise DamagedFileError(f"storage {key!r:.40} is listed, but no tensor of a known type uses it")
            count = int.from_bytes(data[pos : pos + 8], "little", signed=True)
            length = count * DTYPES[storage.dtype].itemsize
            pos += 8
            if count != storage.whole or length > len(data) - pos:
                raise DamagedFileError(
                    f"storage {key} has {count} elements, wanted {storage.whole}; the file has {len(data) - pos} "
                    "bytes left"
                )
            spans[key] = (pos, length)
            pos += length

        def locate(storage: _Storage) -> tuple[int, int]:
            if storage.key not in spans:
                raise DamagedFileError(f"storage {storage.key} is missing")
            return spans[storage.key]

        return _state(file, top, locate)


# What the pickle describes


def _counts(value: object) -> tuple[int, ...] | None:
    """Return ``value`` if it is a short tuple of whole numbers of at least 0."""
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS:
        return None
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value):
        return None
    return value


def _storage(identity: object) -> object:
    """Return the storage that a persistent id names: ("storage", type, key, device, elements[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        return Opaque()
    kind, key, count = identity[1], identity[2], _counts((identity[4],))
    if not isinstance(key, str) or count is None:
        return Opaque()
    dtype = None
    if isinstance(kind, GlobalName) and kind.module in ("torch", "torch.cuda", "torch.storage"):
        dtype = _STORAGE_DTYPES.get(kind.name)
    if len(identity) == 6 and identity[5] is not None:
        view = identity[5]
        part = _counts(view[1:]) if isinstance(view, tuple) and len(view) == 3 else None
        if part is None or sum(part) > count[0]:
            return Opaque()
        return _Storage(key, dtype, part[0], part[1], count[0])
    return _Storage(key, dtype, 0, count[0], count[0])


def _rebuild_tensor(arguments: tuple[object, ...]) -> object:
    if len(arguments) < 4:
        return Opaque()
    storage, offset = arguments[0], _counts((arguments[1],))
    shape, strides = _counts(arguments[2]), _counts(arguments[3])
    if not isinstance(storage, _Storage) or offset is None or shape is None or strides is None:
        return Opaque()
    return _Tensor(storage, offset[0], shape, strides)


def _first_argument(arguments: tuple[object, ...]) -> object:
    return arguments[0] if arguments else Opaque()


_REBUILDERS: dict[GlobalName, Rebuilder] = {
    GlobalName("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    GlobalName("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    GlobalName("torch._utils", "_rebuild_parameter"): _first_argument,
    GlobalName("torch._utils", "_rebuild_parameter_with_state"): _first_argument,
    GlobalName("torch", "Size"): _first_argument,
}


def _state(file: FileStamp, top: object, locate: Callable[[_Storage], tuple[int, int]]) -> StateFile:
    if not isinstance(top, dict):
        raise DamagedFileError(
            "found a whole pickled object, wanted a dict with a state_dict; save model.state_dict() instead"
        )
    state: object = top.get("state_dict", top)
    others: tuple[str, ...] = ()
    if not isinstance(state, dict):
        raise DamagedFileError("its entry state_dict is no dict")
    if state is not top:
        others = tuple(name for name in top if isinstance(name, str) and name != "state_dict")
    elif not any(isinstance(value, _Tensor) for value in top.values()):
        raise DamagedFileError("found neither an entry state_dict nor tensors")
    tensors: dict[str, StoredTensor | Unreadable] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise DamagedFileError(f"its state dict has a key of type {type(key).__name__}, wanted text")
        tensors[key] = _place(file, value, locate)
    return StateFile(tensors, others)


def _place(file: FileStamp, value: object, locate: Callable[[_Storage], tuple[int, int]]) -> StoredTensor | Unreadable:
    if not isinstance(value, _Tensor):
        return Unreadable("it is no dense tensor")
    storage = value.storage
    if storage.dtype is None:
        return Unreadable("its element type is not supported")
    if len(value.shape) != len(value.strides):
        return Unreadable(f"found {len(value.shape)} dimensions and {len(value.strides)} strides")
    elements = extent(value.shape, value.strides)
    # An expanded tensor (stride 0) could claim terabytes from a few bytes.
    if value.offset + elements > storage.count or math.prod(value.shape) > storage.count:
        return Unreadable(f"its shape {value.shape} doesn't fit its storage of {storage.count} elements")
    start, length = locate(storage)
    itemsize = DTYPES[storage.dtype].itemsize
    first = storage.first + value.offset
    if (first + elements) * itemsize > length:
        raise DamagedFileError(f"storage {storage.key} has {length} bytes, a tensor claims {storage.whole} elements")
    return StoredTensor(file, start + first * itemsize, storage.dtype, value.shape, value.strides)
