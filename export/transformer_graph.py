"""The GPT as one ONNX graph that serves prefill, decode step and teacher-forced logits on the CPU.

Inputs and outputs (B rows, T tokens a row in this run, S visible cache positions, R rows of logits):

=============== ======= ================= ==========================================================
``tokens``      int64   (B, T)            what is appended
``positions``   int64   (B, T)            their places in the sequence (for the learned positions)
``write_at``    int64   (B,)              the first of them, where keys and values are written
``query_shape`` int64   (5,)              (B,H,T,1,D) or (B,H,1,T,D), see below
``mask``        float32 (1 or B, …)       (…,1,T,1,S) or (…,1,1,T,S): 0 where a token sees a position, else -inf
``rows``        int64   (B, R)            which of the T tokens get logits
``past_*``      float32 (B,H,1,S,D)       caches, one pair of key and value a layer
``logits``      float32 (B, R, V)
``present_*``   float32 (B,H,1,S,D)       the same caches; bind each to the memory of its past
=============== ======= ================= ==========================================================

Two designs were compared. GroupQueryAttention is one fused node, but ONNX Runtime computes its products by other
routines when T = 1 than when T > 1, so a prefill and steps differ in the last bits, and it refuses T > 1 after a past
for more than one row. Here the caller shapes the queries. As (B, H, T, 1, D) each token's query is a matrix of one row
of its own, so every score and every sum over values comes from the same one-row routine whatever B and T are: codes are
bit-equal alone, in batches, and through prefill or steps. As (B, H, 1, T, D) a row's queries are one matrix, which is
several times faster for long prefixes and still independent of the batch. It is independent of how a sequence is cut,
too, where each run has two tokens or more (`TransformerEngine.runs`). The dense layers keep both properties because
their weights are constants, which ONNX Runtime packs once for a routine that computes rows independently.

``rows`` must be the same ones in every row of the batch: after the keys and values of the last layer only they are
computed, row by row. Sums, norms and GELUs are nodes of their own, since the fused ones take longer
(`trt_vqgan.runtime.sessions.SLOW_FUSIONS`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from trt_vqgan.export.graph_builder import ArraySource, GraphBuilder, LazyArray
from trt_vqgan.export.weight_quantization import INT4, INT8, BlockForm, quantize_blockwise, quantize_rows
from trt_vqgan.spec import TransformerSpec

Precision = Literal["fp32", "int8", "int4"]

OPSET = 24  # TensorScatter: in-place writes into a cache
MICROSOFT = "com.microsoft"
LAYER_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class _Writer:
    builder: GraphBuilder
    spec: TransformerSpec
    weights: Mapping[str, ArraySource]
    precision: Precision
    wider: frozenset[str]

    def array(self, key: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.asarray(self.weights[f"transformer.{key}"], dtype=np.float32)

    def vector(self, key: str) -> str:
        return self.builder.weight(key, self.array(key))

    def linear(self, x: str, name: str, weight: LazyArray, bias: ArraySource | None = None) -> str:
        """Append x (…, K) times weight (N, K) transposed, plus bias (N,)."""
        rows, columns = weight.shape
        b = self.builder
        form = self.form(name)
        if form is not None:
            inputs = [x, *_quantized(b, name, weight, form)]
            if bias is not None:
                inputs += ["", "", b.weight(f"{name}.bias", bias)]
            return b.node(
                "MatMulNBits",
                inputs,
                domain=MICROSOFT,
                K=columns,
                N=rows,
                bits=form.bits,
                block_size=form.block,
                accuracy_level=4,
            )
        transposed = LazyArray((columns, rows), np.dtype(np.float32), lambda: np.asarray(weight).T)
        y = b.node("MatMul", [x, b.weight(f"{name}.weight", transposed)])
        return y if bias is None else b.node("Add", [y, b.weight(f"{name}.bias", bias)])

    def form(self, name: str) -> BlockForm | None:
        """Return how a matrix is kept; None for floats."""
        if self.precision == "fp32":
            return None
        return INT8 if self.precision == "int8" or name == "head" or _group(name) in self.wider else INT4

    def matrix(self, key: str, rows: int, columns: int) -> LazyArray:
        return LazyArray((rows, columns), np.dtype(np.float32), lambda: self.array(key).reshape(rows, columns))


def _group(name: str) -> str:
    """Return the name of the matrices that share a form: an input projection's is that of its attention."""
    parent, _, part = name.rpartition(".")
    return parent if parent.endswith(".attn") and part != "proj" else name


def _quantized(builder: GraphBuilder, name: str, weight: LazyArray, form: BlockForm) -> list[str]:
    """Add one matrix in blocks; it is quantised when it is written, once for the codes and once for the scales."""
    rows, columns = weight.shape
    blocks = -(-columns // form.block)
    codes = LazyArray(
        (rows, blocks, form.block * form.bits // 8),
        np.dtype(np.uint8),
        lambda: quantize_blockwise(np.asarray(weight), form).codes,
    )
    scales = LazyArray(
        (rows, blocks), np.dtype(np.float32), lambda: quantize_blockwise(np.asarray(weight), form).scales
    )
    return [
        builder.weight(f"{name}.codes", codes),
        builder.weight(f"{name}.scales", scales, stored=np.float16),
    ]


def transformer_graph(
    spec: TransformerSpec,
    weights: Mapping[str, ArraySource],
    *,
    precision: Precision = "fp32",
    wider: frozenset[str] = frozenset(),
) -> GraphBuilder:
    """Return the transformer's graph, its weights still unread.

    Parameters
    ----------
    spec : the transformer's sizes.
    weights : arrays under ``transformer.`` + published key.
    precision : "fp32", or "int8": weights in blocks of 64 along the inner axis with one scale each (symmetric), while
        activations are quantised per row and block as they come; embeddings are int8 with a scale a row. "int4": the
        same with 4-bit weights in blocks of 32, the head still in 8 bits.
    wider : matrices, as `quantized_gpt.matrix_names` has them, that keep 8 bits where the precision is "int4".
    """
    b = GraphBuilder("transformer", opset=OPSET, external=True)
    w = _Writer(b, spec, weights, precision, wider)
    heads, size, width = spec.num_heads, spec.head_size, spec.hidden_size
    cache_shape = ("B", heads, 1, "S", size)
    b.input("tokens", np.int64, ("B", "T"))
    b.input("positions", np.int64, ("B", "T"))
    b.input("write_at", np.int64, ("B",))
    b.input("query_shape", np.int64, (5,))
    b.input("mask", np.float32, ("MB", 1, "MT", "MQ", "S"))
    b.input("rows", np.int64, ("B", "R"))
    for i in range(spec.num_layers):
        b.input(f"past_key_{i}", np.float32, cache_shape)
        b.input(f"past_value_{i}", np.float32, cache_shape)

    token_rows = _embedding(w, "tok_emb.weight", "tokens", spec.vocab_size)
    x = b.node("Add", [token_rows, _embedding(w, "pos_emb", "positions", spec.max_seq_len)])
    normed = _norm(w, x, "blocks.0.ln1")
    for i in range(spec.num_layers):
        last = i + 1 == spec.num_layers
        attended = _last_attention(w, i, normed) if last else _attention(w, i, normed)
        if last:
            x = _chosen(w, x)  # nothing after the last keys and values is needed of the others
        x = _add(w, x, attended, f"blocks.{i}.attn.proj.bias")
        hidden = _norm(w, x, f"blocks.{i}.ln2")
        hidden = w.linear(hidden, f"blocks.{i}.mlp.0", w.matrix(f"blocks.{i}.mlp.0.weight", 4 * width, width))
        hidden = b.node("Gelu", [b.node("Add", [hidden, w.vector(f"blocks.{i}.mlp.0.bias")])])
        out = w.linear(hidden, f"blocks.{i}.mlp.2", w.matrix(f"blocks.{i}.mlp.2.weight", width, 4 * width))
        x = _add(w, x, out, f"blocks.{i}.mlp.2.bias")
        normed = _norm(w, x, "ln_f" if last else f"blocks.{i + 1}.ln1")
    b.output(
        "logits",
        np.float32,
        ("B", "R", spec.vocab_size),
        w.linear(normed, "head", w.matrix("head.weight", spec.vocab_size, width)),
    )
    for i in range(spec.num_layers):
        b.output(f"present_key_{i}", np.float32, cache_shape)
        b.output(f"present_value_{i}", np.float32, cache_shape)
    return b


def _embedding(w: _Writer, key: str, ids: str, rows: int) -> str:
    flat = w.matrix(key, rows, w.spec.hidden_size)
    if w.precision == "fp32":
        return w.builder.node("Gather", [w.builder.weight(key, flat), ids])
    codes = LazyArray(flat.shape, np.dtype(np.int8), lambda: quantize_rows(np.asarray(flat))[0])
    scales = LazyArray((rows, 1), np.dtype(np.float32), lambda: quantize_rows(np.asarray(flat))[1])
    # scaled after the look-up, so that the table stays small in memory too
    found = w.builder.node("Cast", [w.builder.node("Gather", [w.builder.weight(f"{key}.codes", codes), ids])], to=1)
    scale = w.builder.weight(f"{key}.scales", scales, stored=np.float16)
    return w.builder.node("Mul", [found, w.builder.node("Gather", [scale, ids])])


def _norm(w: _Writer, x: str, name: str) -> str:
    parameters = [w.vector(f"{name}.weight"), w.vector(f"{name}.bias")]
    return w.builder.node("LayerNormalization", [x, *parameters], epsilon=LAYER_NORM_EPSILON)


def _add(w: _Writer, x: str, update: str, bias: str) -> str:
    # in this order, as the fused node had it: the trained model of the parity checks has two codes whose logits lie
    # 3e-6 apart, and the greedy choice between them fell as torch's does
    return w.builder.node("Add", [w.builder.node("Add", [x, update]), w.vector(bias)])


def _chosen(w: _Writer, x: str, axis: int = 1) -> str:
    """Return the tokens of ``x`` that get logits; ``rows`` are the same ones in every row of the batch."""
    first = w.builder.node("Gather", ["rows", w.builder.constant(np.array(0))], axis=0)
    return w.builder.node("Gather", [x, first], axis=axis)


def _attention(w: _Writer, layer: int, normed: str) -> str:
    """Append one layer's attention without its output bias: (B, T, width) -> (B, T, width)."""
    b, spec = w.builder, w.spec
    qkv = _projected(w, layer, normed, ("query", "key", "value"))
    split = b.node("Reshape", [qkv, b.constant(np.array([0, 0, 3, spec.num_heads, 1, spec.head_size]))])
    by_part = b.node("Transpose", [split], perm=[2, 0, 3, 4, 1, 5])  # (3, B, H, 1, T, D)
    q, k, v = b.node("Split", [by_part], 3, axis=0, num_outputs=3)
    return _attended(w, layer, b.node("Reshape", [q, "query_shape"]), (k, v), "mask")


def _last_attention(w: _Writer, layer: int, normed: str) -> str:
    """Append the last layer's attention, of the tokens that get logits, row by row: (B, T, width) -> (B, R, width)."""
    b, spec = w.builder, w.spec
    kv = _projected(w, layer, normed, ("key", "value"))
    split = b.node("Reshape", [kv, b.constant(np.array([0, 0, 2, spec.num_heads, 1, spec.head_size]))])
    k, v = b.node("Split", [b.node("Transpose", [split], perm=[2, 0, 3, 4, 1, 5])], 2, axis=0, num_outputs=2)
    query = _projected(w, layer, _chosen(w, normed), ("query",))
    by_head = b.node("Reshape", [query, b.constant(np.array([0, 0, spec.num_heads, 1, spec.head_size]))])
    by_row = b.node("Reshape", ["mask", b.constant(np.array([0, 0, -1, 1, 0]))])  # (…, 1, T, 1, S)
    return _attended(w, layer, b.node("Transpose", [by_head], perm=[0, 2, 1, 3, 4]), (k, v), _chosen(w, by_row, axis=2))


def _projected(w: _Writer, layer: int, normed: str, parts: tuple[str, ...]) -> str:
    """Append some of a layer's input projections side by side: (B, T, width) -> (B, T, parts x width)."""
    width = w.spec.hidden_size
    scale = np.float32(1.0 / math.sqrt(w.spec.head_size))  # folded in, so that the scores' product has a factor of 1
    prefix = f"blocks.{layer}.attn"

    def stacked(kind: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        arrays = [w.array(f"{prefix}.{part}.{kind}") * (scale if part == "query" else 1) for part in parts]
        return np.concatenate(arrays)

    weight = LazyArray((len(parts) * width, width), np.dtype(np.float32), lambda: stacked("weight"))
    bias = LazyArray((len(parts) * width,), np.dtype(np.float32), lambda: stacked("bias"))
    return w.linear(normed, f"{prefix}.{'_'.join(parts)}", weight, bias)


def _attended(w: _Writer, layer: int, query: str, new: tuple[str, str], mask: str) -> str:
    """Append writing of keys and values (1, B, H, 1, T, D), attention of queries, and the output projection."""
    b, spec = w.builder, w.spec
    heads, size, width = spec.num_heads, spec.head_size, spec.hidden_size
    first = b.constant(np.array([0]))
    caches = []
    for kind, part in zip(("key", "value"), new, strict=True):
        (cache,) = b.node(
            "TensorScatter",
            [f"past_{kind}_{layer}", b.node("Squeeze", [part, first]), "write_at"],
            [f"present_{kind}_{layer}"],
            axis=3,
        )
        caches.append(cache)
    scores = b.node("FusedMatMul", [query, caches[0]], domain=MICROSOFT, transB=1)
    weights = b.node("Softmax", [b.node("Add", [scores, mask])], axis=-1)
    by_head = b.node("Reshape", [b.node("MatMul", [weights, caches[1]]), b.constant(np.array([0, heads, -1, size]))])
    merged = b.node("Reshape", [b.node("Transpose", [by_head], perm=[0, 2, 1, 3]), b.constant(np.array([0, 0, width]))])
    name = f"blocks.{layer}.attn.proj"
    return w.linear(merged, name, w.matrix(f"{name}.weight", width, width))
