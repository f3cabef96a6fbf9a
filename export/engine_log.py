"""What TensorRT says of an engine while it builds it: its tensors, profiles and layers.

TensorRT's own inspector needs a GPU, because it deserializes the engine; the log of a build with detailed profiling
verbosity has the same facts. It is text for people, so that everything here is as TensorRT names it ("Half", "Float"),
and an engine whose log has no such part (full TensorRT writes another one) has no report.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from dataclasses import dataclass

_HEAD = "Layers:\n"
_TENSORS = "\nI/O Tensors:\n"
_TENSOR = re.compile(
    r"^ *Name: (\S+), IOMode: (\w+), DataType: (\w+), Dimensions: \[([^]]*)\].*?ProfileInfo: \[(.*)\]$"
)
_SHAPES = re.compile(r"MinShape: \[([^]]*)\], OptShape: \[([^]]*)\], MaxShape: \[([^]]*)\]")
_LAYER = re.compile(
    r"^Name: (.*?), LayerType: (.*?), Inputs: \[(.*?)\], Constants: \[(.*?)\], Outputs: \[(.*?)\], TacticName:"
)
_INTEGERS = ("Int32", "Int64", "Bool")
_DATATYPE = re.compile(r"Datatype: (\w+)")

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """An input or output: ``dimensions``, -1 where dynamic; of an input (least, best, most) shapes a profile."""

    name: str
    is_input: bool
    dtype: str
    dimensions: Shape
    profiles: tuple[tuple[Shape, Shape, Shape], ...]


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """A layer: what TensorRT calls it and its kind, and the dtypes that it reads, holds and makes."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """Tensors and layers of an engine."""

    tensors: tuple[EngineTensor, ...]
    layers: tuple[EngineLayer, ...]

    @property
    def precisions(self) -> dict[str, int]:
        """How many layers read numbers of each dtype, by their first such input; layers of sizes alone don't count."""
        counts = collections.Counter(
            next((dtype for dtype in layer.inputs if dtype not in _INTEGERS), None) for layer in self.layers
        )
        return {dtype: count for dtype, count in sorted(counts.items(), key=str) if dtype is not None}


def read_engine_log(lines: Iterable[str]) -> EngineReport | None:
    """Return what the log lines of a build say of the engine; None where they say nothing."""
    text = next((line for line in lines if line.startswith(_HEAD) and _TENSORS in line), None)
    if text is None:
        return None
    layers, _, tensors = text.removeprefix(_HEAD).partition(_TENSORS)
    return EngineReport(
        tensors=tuple(_tensor(match) for match in map(_TENSOR.match, tensors.splitlines()) if match),
        layers=tuple(_layer(match) for match in map(_LAYER.match, layers.splitlines()) if match),
    )


def _tensor(match: re.Match[str]) -> EngineTensor:
    name, mode, dtype, dimensions, profiles = match.groups()
    return EngineTensor(
        name=name,
        is_input=mode == "Input",
        dtype=dtype,
        dimensions=_shape(dimensions),
        profiles=tuple((_shape(a), _shape(b), _shape(c)) for a, b, c in _SHAPES.findall(profiles)),
    )


def _layer(match: re.Match[str]) -> EngineLayer:
    name, kind, inputs, constants, outputs = match.groups()
    return EngineLayer(
        name=name,
        kind=kind,
        inputs=tuple(_DATATYPE.findall(inputs)),
        constants=tuple(_DATATYPE.findall(constants)),
        outputs=tuple(_DATATYPE.findall(outputs)),
    )


def _shape(text: str) -> Shape:
    return tuple(int(number) for number in text.split(",") if number)
