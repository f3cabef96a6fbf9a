"""The GPT for GPUs: one file of weights, and dense segments cut where our attention kernel comes between.

With L layers there are L + 1 segments, each one ONNX graph for any number of rows B and tokens T a row (d the width, V
the vocabulary):

============ ================================= ======================================================================
segment      inputs                            outputs
============ ================================= ======================================================================
0            ``x``                             ``qkv``: first LayerNorm and QKV of layer 0
i in 1 … L-1 ``x``, ``attended``               ``x_out``, ``qkv``: the rest of layer i - 1, LayerNorm and QKV of layer i
L            ``x``, ``attended``               ``logits``: the rest of the last layer, LayerNorm and head
============ ================================= ======================================================================

``x``, ``x_out`` float32 (B, T, d) is the residual stream, ``logits`` float32 (B, T, V). ``attended`` (B, T, d) and
``qkv`` (B, T, 3d), queries unscaled, are float16 (float32 in the fp32 twin). Products are of float16 matrices; biases,
LayerNorm, GELU (erf) and sums are float32. The head's product is a float32 one of float16 values, so that logits aren't
rounded: TF32 holds such values exactly.

The weights lie once in a safetensors file, matrices (N, K) row by row in float16, vectors in float32; segments refer to
it as external data, and a runtime that needs no graphs reads it directly. Names are the published ones, but for
``blocks.i.attn.qkv``: query, key and value stacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_vqgan.errors import ExportError
from trt_vqgan.export.gpu_autoencoder import FLOAT32, NUMPY_DTYPES, GpuDtype
from trt_vqgan.export.graph_builder import ArraySource, GraphBuilder, LazyArray, Place
from trt_vqgan.export.safetensors_writer import place_tensors, write_tensors
from trt_vqgan.export.transformer_graph import LAYER_NORM_EPSILON
from trt_vqgan.manifest import segment_name
from trt_vqgan.spec import TransformerSpec

OPSET = 21


def write_transformer(
    folder: Path, spec: TransformerSpec, weights: Mapping[str, ArraySource], *, dtype: GpuDtype = "fp16"
) -> tuple[Path, list[Path]]:
    """Write ``transformer.safetensors`` and ``segment_00.onnx`` … into ``folder``; return the file and the segments.

    Parameters
    ----------
    weights : arrays under ``transformer.`` + published key, read one at a time.
    dtype : of the matrices.

    Raises
    ------
    ExportError : a matrix that does not fit float16.
    """
    tensors = transformer_tensors(spec, weights, dtype=dtype)
    path = folder / "transformer.safetensors"
    write_tensors(path, tensors)
    places = place_tensors(path, tensors)
    segments = []
    for index in range(spec.num_layers + 1):
        segments.append(folder / f"{segment_name(index)}.onnx")
        model = segment_graph(spec, index, tensors, places, dtype=dtype)
        segments[-1].write_bytes(model.SerializeToString())
    return path, segments


def transformer_tensors(
    spec: TransformerSpec, weights: Mapping[str, ArraySource], *, dtype: GpuDtype = "fp16"
) -> dict[str, LazyArray]:
    """Return what the weights' file holds, by name, in its order: float32 vectors, then matrices; read when asked."""
    width, vocab = spec.hidden_size, spec.vocab_size
    vectors: dict[str, LazyArray] = {}
    matrices: dict[str, LazyArray] = {}

    def array(key: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # the writer refuses what isn't finite, by name
            return np.asarray(weights[f"transformer.{key}"], dtype=np.float32).reshape(shape).astype(kind, copy=False)

    def vector(key: str, size: int) -> None:
        vectors[key] = LazyArray((size,), FLOAT32, lambda: array(key, (size,), FLOAT32))

    def matrix(key: str, rows: int, columns: int) -> None:
        kind = NUMPY_DTYPES[dtype]
        matrices[key] = LazyArray((rows, columns), kind, lambda: array(key, (rows, columns), kind))

    def stacked(prefix: str, part: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> LazyArray:
        one = (shape[0] // 3, *shape[1:])
        names = [f"{prefix}.{name}.{part}" for name in ("query", "key", "value")]
        return LazyArray(shape, kind, lambda: np.concatenate([array(name, one, kind) for name in names]))

    matrix("tok_emb.weight", vocab, width)
    matrix("pos_emb", spec.max_seq_len, width)
    for i in range(spec.num_layers):
        block = f"blocks.{i}"
        for name, size in (
            ("ln1.weight", width),
            ("ln1.bias", width),
            ("attn.proj.bias", width),
            ("ln2.weight", width),
            ("ln2.bias", width),
            ("mlp.0.bias", 4 * width),
            ("mlp.2.bias", width),
        ):
            vector(f"{block}.{name}", size)
        vectors[f"{block}.attn.qkv.bias"] = stacked(f"{block}.attn", "bias", (3 * width,), FLOAT32)
        kind = NUMPY_DTYPES[dtype]
        matrices[f"{block}.attn.qkv.weight"] = stacked(f"{block}.attn", "weight", (3 * width, width), kind)
        matrix(f"{block}.attn.proj.weight", width, width)
        matrix(f"{block}.mlp.0.weight", 4 * width, width)
        matrix(f"{block}.mlp.2.weight", width, 4 * width)
    vector("ln_f.weight", width)
    vector("ln_f.bias", width)
    matrix("head.weight", vocab, width)
    return vectors | matrices


def segment_graph(
    spec: TransformerSpec,
    index: int,
    tensors: Mapping[str, ArraySource],
    places: Mapping[str, Place],
    *,
    dtype: GpuDtype = "fp16",
) -> onnx.ModelProto:
    """Return segment ``index``, 0 to the number of layers, whose weights lie at ``places``."""
    if not 0 <= index <= spec.num_layers:
        raise ExportError(
            f"segment {index} of a transformer of {spec.num_layers} layers: wanted 0 to {spec.num_layers}"
        )
    writer = _SegmentWriter(segment_name(index), tensors, places, NUMPY_DTYPES[dtype])
    graph, width = writer.graph, spec.hidden_size
    rows = ("B", "T")
    x = graph.input("x", np.float32, (*rows, width))
    if index > 0:
        attended = graph.input("attended", NUMPY_DTYPES[dtype], (*rows, width))
        x = writer.rest_of_layer(x, attended, f"blocks.{index - 1}")
    if index == spec.num_layers:
        graph.output("logits", np.float32, (*rows, spec.vocab_size), writer.head(writer.norm(x, "ln_f")))
        return graph.model()
    if index > 0:
        graph.output("x_out", np.float32, (*rows, width), x)
    qkv = writer.linear(writer.half(writer.norm(x, f"blocks.{index}.ln1")), f"blocks.{index}.attn.qkv")
    graph.output("qkv", NUMPY_DTYPES[dtype], (*rows, 3 * width), writer.half(qkv))
    return graph.model()


class _SegmentWriter:
    """Writes dense layers; what methods return is float32 unless they say otherwise."""

    def __init__(
        self, name: str, tensors: Mapping[str, ArraySource], places: Mapping[str, Place], dtype: np.dtype[Any]
    ) -> None:
        self.graph = GraphBuilder(name, opset=OPSET)
        self._tensors, self._places, self._dtype = tensors, places, dtype

    def half(self, x: str) -> str:
        """X in the dtype of the matrices."""
        return x if self._dtype == FLOAT32 else self.graph.node("Cast", [x], to=onnx.TensorProto.FLOAT16)

    def wide(self, x: str) -> str:
        """X, of the dtype of the matrices, in float32."""
        return x if self._dtype == FLOAT32 else self.graph.node("Cast", [x], to=onnx.TensorProto.FLOAT)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm."""
        weights = [self._weight(f"{name}.{part}") for part in ("weight", "bias")]
        return self.graph.node("LayerNormalization", [x, *weights], epsilon=LAYER_NORM_EPSILON)

    def linear(self, x: str, name: str) -> str:
        """X, of the dtype of the matrices, times a matrix (N, K) transposed, plus a bias."""
        product = self.graph.node("MatMul", [x, self._transposed(self._weight(f"{name}.weight"))])
        return self.graph.node("Add", [self.wide(product), self._weight(f"{name}.bias")])

    def head(self, x: str) -> str:
        """Logits, without rounding to float16 on the way."""
        values = self.wide(self.half(x))
        matrix = self._transposed(self.wide(self._weight("head.weight")))
        return self.graph.node("MatMul", [values, matrix])

    def rest_of_layer(self, x: str, attended: str, name: str) -> str:
        """What comes after a layer's attention: projection and MLP, each added to the residual stream."""
        x = self.graph.node("Add", [x, self.linear(attended, f"{name}.attn.proj")])
        hidden = self.linear(self.half(self.norm(x, f"{name}.ln2")), f"{name}.mlp.0")
        hidden = self.half(self.graph.node("Gelu", [hidden]))
        return self.graph.node("Add", [x, self.linear(hidden, f"{name}.mlp.2")])

    def _weight(self, name: str) -> str:
        source = self._tensors[name]
        return self.graph.placed_weight(name, tuple(source.shape), source.dtype, self._places[name])

    def _transposed(self, matrix: str) -> str:
        return self.graph.node("Transpose", [matrix], perm=[1, 0])
