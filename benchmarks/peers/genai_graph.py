"""The GPT as the ONNX graph that onnxruntime-genai runs: its inputs and outputs, its attention, a cache it owns.

Inputs and outputs (B rows, T tokens a row in this run, P positions before them, S all of them, C the cache's room):

============================ ======= ===================== =====================================================
``input_ids``                int64   (B, T)                what is appended
``position_ids``             int64   (B, T)                their places, for the learned positions
``attention_mask``           int64   (B, S)                ones; only its sums and width are used
``past_key_values.N.key``    float32 (B, H, C, D)          and ``.value``: caches, in the memory of ``present.N``
``logits``                   float32 (B, T, V)
``present.N.key``            float32 (B, H, C, D)          and ``.value``
============================ ======= ===================== =====================================================

Operators are those that the package's own model builder writes for a CPU: GroupQueryAttention over packed queries, keys
and values, SkipLayerNormalization, and MatMulNBits where weights have 8 or 4 bits, quantised as in our exports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trt_vqgan.benchmarks.peers.weights import fused_qkv
from trt_vqgan.export.graph_builder import GraphBuilder
from trt_vqgan.export.weight_quantization import INT4, INT8, BlockForm, quantize_blockwise
from trt_vqgan.spec import TransformerSpec

OPSET = 21
MICROSOFT = "com.microsoft"
LAYER_NORM_EPSILON = 1e-5
INT32 = 6

FORMS: dict[str, BlockForm | None] = {"fp32": None, "int8": INT8, "int4": INT4}


def genai_graph(spec: TransformerSpec, weights: Mapping[str, Any], *, precision: str) -> GraphBuilder:
    """Return the graph.

    Parameters
    ----------
    spec, weights : the transformer, by canonical key.
    precision : one of `FORMS`, of the matrices; the head has 8 bits in "int4" too, embeddings float32.
    """
    b = GraphBuilder("genai", opset=OPSET, external=True)
    form = FORMS[precision]
    cache = ("B", spec.num_heads, "C", spec.head_size)
    for name, shape in (("input_ids", "T"), ("position_ids", "T"), ("attention_mask", "S")):
        b.input(name, np.int64, ("B", shape))
    for i in range(spec.num_layers):
        b.input(f"past_key_values.{i}.key", np.float32, cache)
        b.input(f"past_key_values.{i}.value", np.float32, cache)

    def linear(x: str, name: str, matrix: Any, bias: Any, form: BlockForm | None) -> str:
        rows, columns = matrix.shape
        if form is None:
            y = b.node("MatMul", [x, b.weight(f"{name}.weight", np.ascontiguousarray(matrix.T))])
        else:
            blocks = quantize_blockwise(matrix, form)
            inputs = [x, b.weight(f"{name}.codes", blocks.codes), b.weight(f"{name}.scales", blocks.scales)]
            sizes = {"K": columns, "N": rows, "bits": form.bits, "block_size": form.block, "accuracy_level": 4}
            y = b.node("MatMulNBits", inputs, domain=MICROSOFT, **sizes)
        return y if bias is None else b.node("Add", [y, b.weight(f"{name}.bias", bias)])

    def dense(x: str, key: str) -> str:
        return linear(x, key, weights[f"transformer.{key}.weight"], weights[f"transformer.{key}.bias"], form)

    def norm(x: str, update: str | None, key: str) -> tuple[str, str]:
        """Return x plus the update, normalised, and the sum."""
        parameters = [b.weight(f"{key}.{part}", weights[f"transformer.{key}.{part}"]) for part in ("weight", "bias")]
        if update is None:
            return b.node("LayerNormalization", [x, *parameters], epsilon=LAYER_NORM_EPSILON), x
        normed, _, _, total = b.node(
            "SkipLayerNormalization",
            [x, update, *parameters],
            ["normed", "", "", "sum"],
            domain=MICROSOFT,
            epsilon=LAYER_NORM_EPSILON,
        )
        return normed, total

    tokens = b.node("Gather", [b.weight("tok_emb", weights["transformer.tok_emb.weight"]), "input_ids"])
    table = weights["transformer.pos_emb"].reshape(spec.max_seq_len, spec.hidden_size)
    x = b.node("Add", [tokens, b.node("Gather", [b.weight("pos_emb", table), "position_ids"])])
    last, total = _lengths(b)
    update = None
    for i in range(spec.num_layers):
        block = f"blocks.{i}"
        normed, x = norm(x, update, f"{block}.ln1")
        qkv = linear(normed, f"{block}.attn.qkv", *fused_qkv(weights, i), form)
        mixed, _, _ = b.node(
            "GroupQueryAttention",
            [qkv, "", "", f"past_key_values.{i}.key", f"past_key_values.{i}.value", last, total],
            [f"mixed.{i}", f"present.{i}.key", f"present.{i}.value"],
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_heads,
        )
        normed, x = norm(x, dense(mixed, f"{block}.attn.proj"), f"{block}.ln2")
        update = dense(b.node("Gelu", [dense(normed, f"{block}.mlp.0")]), f"{block}.mlp.2")
    normed, _ = norm(x, update, "ln_f")
    head = linear(normed, "head", weights["transformer.head.weight"], None, INT8 if form == INT4 else form)
    b.output("logits", np.float32, ("B", "T", spec.vocab_size), head)
    for i in range(spec.num_layers):
        b.output(f"present.{i}.key", np.float32, cache)
        b.output(f"present.{i}.value", np.float32, cache)
    return b


def _lengths(b: GraphBuilder) -> tuple[str, str]:
    """Return int32 (B,) of each row's last position, and int32 () of all positions."""
    one = b.constant(np.array([1], dtype=np.int64))
    seen = b.node("ReduceSum", ["attention_mask", one], keepdims=0)
    last = b.node("Cast", [b.node("Sub", [seen, one])], to=INT32)
    width = b.node("Gather", [b.node("Shape", ["attention_mask"]), b.constant(np.array(1, dtype=np.int64))])
    return last, b.node("Cast", [width], to=INT32)
