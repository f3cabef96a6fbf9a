"""The matrices of a bundle's transformer, as they lie in its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BundleError
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.spec import TransformerSpec

Array = npt.NDArray[Any]

_FORMS = {64: (8, 64), 32: (4, 64), 16: (4, 32)}
"""Bytes of a block -> bits of a code, and codes a block."""

_INPUT_PROJECTIONS = (("query_key_value",), ("query", "key_value"), ("qkv",))
"""Names of what makes queries, keys and values, in that order; the last is that of version 0.1."""


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """One matrix (outputs, inputs), still in the file, maybe in parts that lie above each other.

    Attributes
    ----------
    names : of the parts.
    outputs : of each part.
    bits : 32 for floats, 8 or 4 for codes in blocks.
    block : inputs that share a scale; 0 for floats.
    """

    weights: GraphWeights
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int
    bits: int
    block: int
    has_bias: bool

    def read(self) -> tuple[Array, Array | None, Array | None]:
        """Return weights (float32 (inputs, outputs), or uint8 codes), scales float16 or None, and bias or None."""
        parts = list(zip(self.names, self.outputs, strict=True))
        bias = None
        if self.has_bias:
            bias = _joined([self.weights.array(f"{name}.bias", (count,), np.float32) for name, count in parts])
        if self.bits == 32:
            floats = [self.weights.array(f"{name}.weight", (self.inputs, count), np.float32) for name, count in parts]
            return _joined(floats, axis=1), None, bias
        blocks = -(-self.inputs // self.block)
        size = self.block * self.bits // 8
        codes = [self.weights.array(f"{name}.codes", (count, blocks, size), np.uint8) for name, count in parts]
        scales = [self.weights.array(f"{name}.scales", (count, blocks), np.float16) for name, count in parts]
        return _joined(codes), _joined(scales), bias


def matrices(weights: GraphWeights, spec: TransformerSpec) -> Iterator[StoredMatrix]:
    """Return an iterator over a transformer's matrices.

    Of each layer: queries, keys and values; attention's output; the MLP's two. Then the head.

    Raises
    ------
    BundleError : one is missing, or of a form that isn't known.
    """
    width = spec.hidden_size
    for layer in range(spec.num_layers):
        block = f"blocks.{layer}"
        for parts in _INPUT_PROJECTIONS:
            names = [f"{block}.attn.{part}" for part in parts]
            if all(f"{name}.bias" in weights for name in names):
                break
        sizes = {"query": width, "key_value": 2 * width}
        yield _stored(
            weights, {name: sizes.get(part, 3 * width) for name, part in zip(names, parts, strict=True)}, width
        )
        yield _stored(weights, {f"{block}.attn.proj": width}, width)
        yield _stored(weights, {f"{block}.mlp.0": 4 * width}, width)
        yield _stored(weights, {f"{block}.mlp.2": width}, 4 * width)
    yield _stored(weights, {"head": spec.vocab_size}, width, has_bias=False)


def _stored(weights: GraphWeights, parts: dict[str, int], inputs: int, *, has_bias: bool = True) -> StoredMatrix:
    forms = {_form(weights, name, outputs, inputs) for name, outputs in parts.items()}
    found = forms.pop()
    if found is None or forms:
        raise BundleError(
            f"{weights.path}: matrix {' or '.join(map(repr, parts))} is missing or of an unknown form; wanted float32, "
            "or codes of 8 bits in blocks of 64 or of 4 bits in blocks of 32 or 64; export the bundle again"
        )
    bits, block = found
    return StoredMatrix(weights, tuple(parts), tuple(parts.values()), inputs, bits, block, has_bias)


def _form(weights: GraphWeights, name: str, outputs: int, inputs: int) -> tuple[int, int] | None:
    """Return bits and block of a matrix, None where it isn't there or of another form."""
    if f"{name}.weight" in weights:
        return 32, 0
    codes, scales = weights.shape(f"{name}.codes"), weights.shape(f"{name}.scales")
    found = _FORMS.get(codes[2]) if len(codes) == 3 else None
    if found is None or not codes[:2] == scales == (outputs, -(-inputs // found[1])):
        return None
    return found


def _joined(parts: list[Array], axis: int = 0) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
