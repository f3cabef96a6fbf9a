"""The weights of a bundle's ONNX file, read without the package onnx.

Only what `export` writes is understood: initializers by name, raw or in one data file beside the model. Everything else
in the file is passed over. Source of the field numbers: onnx.proto of ONNX 1.20.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BundleError

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OP = 1, 4
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 1, 2, 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass(frozen=True)
class GraphWeights:
    """The initializers of one ONNX file; arrays are mapped from the data file when they are asked for.

    Of the nodes it is known which read what first.

    Parameters
    ----------
    path : the ``.onnx`` file.

    Raises
    ------
    BundleError : it can't be read, or isn't an ONNX file of this package.
    """

    path: Path
    _tensors: dict[str, _Tensor] = dataclasses.field(init=False, repr=False)
    _first_inputs: list[tuple[str, str]] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            data = memoryview(self.path.read_bytes())
            parts = [
                part for number, graph in _fields(data) if number == _MODEL_GRAPH for part in _fields(_block(graph))
            ]
            tensors = [_tensor(initializer) for number, initializer in parts if number == _GRAPH_INITIALIZER]
            first_inputs = [_first_input(node) for number, node in parts if number == _GRAPH_NODE]
        except OSError as error:
            raise BundleError(f"{self.path}: can't be read ({error}); export the bundle again") from None
        except (ValueError, IndexError, KeyError) as error:
            raise self._damaged(str(error) or "cut short") from None
        object.__setattr__(self, "_tensors", {tensor.name: tensor for tensor in tensors})
        object.__setattr__(self, "_first_inputs", first_inputs)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """Return a weight, contiguous and read-only.

        Raises
        ------
        BundleError : there is none of this name, shape and dtype.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self._damaged(f"has no weight {name!r}")
        if tensor.shape != shape or tensor.dtype != np.dtype(dtype):
            raise self._damaged(
                f"weight {name!r}: found {tensor.dtype} {tensor.shape}, wanted {np.dtype(dtype)} {shape}"
            )
        if tensor.location is None:
            return np.frombuffer(tensor.raw, dtype=dtype).reshape(shape)
        file = self.path.with_name(tensor.location)
        try:
            return np.memmap(file, dtype=dtype, mode="r", offset=tensor.offset, shape=shape)
        except (OSError, ValueError) as error:
            raise self._damaged(f"weight {name!r} can't be read from {file.name} ({error})") from None

    def floats(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return a weight as float32, of one that is stored in float32 or float16; errors as of `array`."""
        tensor = self._tensors.get(name)
        stored = np.float16 if tensor is not None and tensor.dtype == np.float16 else np.float32
        return np.asarray(self.array(name, shape, stored), dtype=np.float32)

    def first_inputs(self, op: str) -> list[str]:
        """Return the first input of each node of an operator, in order; "" for one without any."""
        return [name for found, name in self._first_inputs if found == op]

    def as_stored(self, name: str) -> npt.NDArray[Any]:
        """Return a weight in the shape and dtype that it has. Raises BundleError where there is none."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self._damaged(f"has no weight {name!r}")
        return self.array(name, tensor.shape, tensor.dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's shape; () for one that isn't there."""
        tensor = self._tensors.get(name)
        return () if tensor is None else tensor.shape

    def _damaged(self, what: str) -> BundleError:
        return BundleError(f"{self.path}: {what}; export the bundle again")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    raw: bytes
    location: str | None
    offset: int


def _tensor(field: int | memoryview) -> _Tensor:
    dims: list[int] = []
    name, kind, raw = "", 0, b""
    external: dict[str, str] = {}
    for number, value in _fields(_block(field)):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME:
            name = str(_block(value), "utf-8")
        elif number == _RAW_DATA:
            raw = bytes(_block(value))
        elif number == _EXTERNAL_DATA:
            entry = dict(_fields(_block(value)))
            external[str(_block(entry[_ENTRY_KEY]), "utf-8")] = str(_block(entry[_ENTRY_VALUE]), "utf-8")
    location = external.get("location")
    if location is not None and ("/" in location or "\\" in location or location in ("", ".", "..")):
        raise ValueError(f"weight {name!r} lies outside the bundle, in {location!r}")
    shape, dtype = tuple(dims), np.dtype(_DTYPES[kind])
    if location is None and len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"weight {name!r} has {len(raw)} bytes for {dtype} {shape}")
    return _Tensor(name, shape, dtype, raw, location, int(external.get("offset", "0")))


def _first_input(field: int | memoryview) -> tuple[str, str]:
    """Return a node's operator and the name of its first input."""
    op, first = "", None
    for number, value in _fields(_block(field)):
        if number == _NODE_OP:
            op = str(_block(value), "utf-8")
        elif number == _NODE_INPUT and first is None:
            first = str(_block(value), "utf-8")
    return op, first or ""


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Return an iterator over a message's fields: number, and an integer or the bytes of what is inside."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"no ONNX file, or one that is cut short (byte {at})")
        yield key >> 3, data[at : at + size]
        at += size


def _block(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("no ONNX file (a number stands for a message)")
    return value


def _varints(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"no ONNX file (a number of more than 64 bits at byte {at})")
