"""An ONNX graph under construction: unique names, and weights that are read only while they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trt_vqgan.errors import ExportError

PAGE_BYTES = 4096  # external data at a page boundary can be mapped in place
SMALL_ALIGNMENT_BYTES = 64  # a cache line, for weights so small that a page each would be mostly padding
SMALL_BYTES = 16 * PAGE_BYTES
INLINE_LIMIT_BYTES = (1 << 31) - (1 << 20)  # protobuf refuses a message of 2 GiB


class ArraySource(Protocol):
    """Anything with a known shape and dtype that ``np.asarray`` can turn into an array: arrays, maps, LazyArray."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that ``load`` makes each time that it is asked for; nothing is kept."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], NDArray[Any]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.load(), dtype=dtype)


@dataclasses.dataclass(frozen=True)
class _Weight:
    source: ArraySource
    stored: np.dtype[Any]

    def num_bytes(self) -> int:
        return int(np.prod(self.source.shape, dtype=np.int64)) * self.stored.itemsize

    def read(self, name: str) -> NDArray[Any]:
        array = np.ascontiguousarray(np.asarray(self.source).reshape(self.source.shape), dtype=self.stored)
        if self.stored == np.float16 and not np.isfinite(array).all():
            raise ExportError(f"weight {name!r} does not fit float16 (largest finite value 65504): store it as float32")
        return array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the elements of a tensor lie: a file beside the model, and bytes in it."""

    file: str
    offset: int
    length: int


class GraphBuilder:
    """Collects nodes and weights in order, and writes one model file.

    Parameters
    ----------
    name : name of the graph.
    opset : version of ai.onnx; other domains that nodes use are imported at version 1.
    external : ``save`` puts weights into ``<file>.data`` beside the model, one at a time, at offsets that are
        multiples of 4096 bytes (64 below 64 KiB); without it they lie inside the model, which then must stay under
        2 GiB.
    """

    def __init__(self, name: str, *, opset: int = 21, external: bool = False) -> None:
        self.name = name
        self.opset = opset
        self.external = external
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._weights: dict[str, _Weight] = {}
        self._domains: set[str] = set()
        self._names: set[str] = set()

    def unique(self, stem: str) -> str:
        """Return ``stem``, or ``stem_1``, ``stem_2`` … where it is taken."""
        name, count = stem, 0
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise ExportError(f"graph {self.name!r}: the name {name!r} is used twice")
        self._names.add(name)
        return name

    def input(self, name: str, dtype: Any, shape: Sequence[int | str | None]) -> str:
        """Declare an input and return its name; a string in ``shape`` names a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(self._claim(name), _element_type(dtype), list(shape)))
        return name

    def output(self, name: str, dtype: Any, shape: Sequence[int | str | None], value: str | None = None) -> str:
        """Declare output ``name`` that carries ``value`` (through an Identity, which runtimes remove).

        Without ``value`` a node must have made ``name`` itself (``outputs=[name]``), so that nothing is copied.
        """
        if value is None and name not in self._names:
            raise ExportError(f"graph {self.name!r}: no node makes the output {name!r}")
        self._outputs.append(helper.make_tensor_value_info(name, _element_type(dtype), list(shape)))
        if value is not None:
            self._nodes.append(
                helper.make_node("Identity", [value], [self._claim(name)], name=self.unique(f"Identity_{name}"))
            )
        return name

    def constant(self, array: Any, *, dtype: Any = None, name: str | None = None) -> str:
        """Return the name of a small constant; equal ones (bytes, shape, dtype) are stored once."""
        value = np.asarray(array, dtype=dtype)  # not ascontiguousarray, which turns a scalar into a vector
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.unique(name or "constant")
            self._initializers.append(
                helper.make_tensor(
                    self._constants[key], _element_type(value.dtype), value.shape, value.tobytes(), raw=True
                )
            )
        return self._constants[key]

    def weight(self, name: str, source: ArraySource, *, stored: Any = None) -> str:
        """Return the name of a value that holds a weight in its source's dtype.

        ``stored`` is the dtype in the file (default: the source's). Where they differ, a Cast to the source's dtype
        follows (ONNX Runtime folds it when it loads the model). The source is read by ``model`` or ``save`` only.
        """
        kind = np.dtype(source.dtype)
        weight = _Weight(source, np.dtype(stored) if stored is not None else kind)
        self._weights[self._claim(name)] = weight
        if weight.stored == kind:
            return name
        return self.node("Cast", [name], to=_element_type(kind))

    def placed_weight(self, name: str, shape: tuple[int, ...], dtype: Any, place: Place) -> str:
        """Return the name of a value that holds a weight which already lies in a file beside the model."""
        tensor = TensorProto(name=self._claim(name), data_type=_element_type(dtype), dims=shape)
        _refer(tensor, place)
        self._initializers.append(tensor)
        return name

    @overload
    def node(self, op: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str: ...
    @overload
    def node(
        self, op: str, inputs: Sequence[str], outputs: int | Sequence[str], *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]: ...
    def node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: int | Sequence[str] | None = None,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str | tuple[str, ...]:
        """Append a node and return its output's name, or a tuple of names where ``outputs`` says how many.

        ``outputs`` may also list names ("" for one that is not wanted), which are then made unique. An input "" is
        an optional one left out.
        """
        stems = [op] if outputs is None else [op] * outputs if isinstance(outputs, int) else list(outputs)
        names = [self.unique(stem) if stem else "" for stem in stems]
        self._nodes.append(
            helper.make_node(op, list(inputs), names, name=self.unique(f"{op}_node"), domain=domain, **attributes)
        )
        if domain:
            self._domains.add(domain)
        return names[0] if outputs is None else tuple(names)

    def weight_bytes(self) -> int:
        """Return the bytes that the weights take in the file."""
        return sum(weight.num_bytes() for weight in self._weights.values())

    def model(self) -> onnx.ModelProto:
        """Return the whole model with its weights inside."""
        if self.weight_bytes() > INLINE_LIMIT_BYTES:
            raise ExportError(
                f"graph {self.name!r}: {self.weight_bytes()} bytes of weights, wanted at most {INLINE_LIMIT_BYTES} "
                "inside one file; build it with external=True"
            )
        tensors = []
        for name, weight in self._weights.items():
            tensor = _tensor(name, weight)
            tensor.raw_data = weight.read(name).tobytes()
            tensors.append(tensor)
        return self._model(tensors)

    def save(self, path: str | Path) -> list[Path]:
        """Write the model and return the files written (the ``.data`` file, if any, last).

        The two files belong together by name: the model holds the data file's name, relative to itself.
        """
        path = Path(path)
        if not self.external:
            path.write_bytes(self.model().SerializeToString())
            return [path]
        data_path = path.with_name(path.name + ".data")
        tensors = []
        with data_path.open("wb") as file:
            for name, weight in self._weights.items():
                alignment = PAGE_BYTES if weight.num_bytes() >= SMALL_BYTES else SMALL_ALIGNMENT_BYTES
                file.write(b"\0" * (-file.tell() % alignment))
                tensor = _tensor(name, weight)
                _refer(tensor, Place(file=data_path.name, offset=file.tell(), length=weight.num_bytes()))
                file.write(weight.read(name).reshape(-1).view(np.uint8).data)
                tensors.append(tensor)
        path.write_bytes(self._model(tensors).SerializeToString())
        return [path, data_path]

    def _model(self, weights: list[onnx.TensorProto]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, initializer=[*self._initializers, *weights]
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(self._domains))]
        ir_version = helper.find_min_ir_version_for(opsets[:1])  # the oldest that holds this opset: most readers
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=ir_version, producer_name="trt-vqgan", doc_string=self.name
        )


def _element_type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _tensor(name: str, weight: _Weight) -> onnx.TensorProto:
    return TensorProto(name=name, data_type=_element_type(weight.stored), dims=weight.source.shape)


def _refer(tensor: TensorProto, place: Place) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place.file), ("offset", str(place.offset)), ("length", str(place.length))):
        tensor.external_data.add(key=key, value=value)
