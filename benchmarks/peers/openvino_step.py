"""A decode step traced from torch for OpenVINO, with keys and values kept as the model's own state, and a prefill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trt_vqgan.export.gpt_modules import GPT, Block, load_gpt
from trt_vqgan.extras import import_module
from trt_vqgan.spec import TransformerSpec


def stateful_step(spec: TransformerSpec, weights: Mapping[str, Any]) -> Any:
    """Return OpenVINO's model of one step: "tokens" (B, 1), "position" (1,) and "rows" (B,) to logits (B, 1, V)."""
    package = import_module("openvino")
    transformations = import_module("openvino._offline_transformations")
    module = _Step(load_gpt(spec, weights)).eval()
    size = spec.hidden_size // spec.num_heads
    past = [torch.zeros(2, spec.num_heads, 3, size) for _ in range(2 * spec.num_layers)]
    example = (torch.zeros(2, 1, dtype=torch.int64), torch.tensor([3]), torch.arange(2, dtype=torch.int32), *past)
    shapes = [[-1, 1], [1], [-1], *([-1, spec.num_heads, -1, size] for _ in past)]
    model = package.convert_model(module, example_input=example, input=shapes)
    names = ["tokens", "position", "rows", *(f"past.{i}" for i in range(len(past)))]
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *(f"present.{i}" for i in range(len(past)))], strict=True):
        port.get_tensor().set_names({name})
    pairs = {f"past.{i}": f"present.{i}" for i in range(len(past))}
    transformations.apply_make_stateful_transformation(model, pairs)
    _begin_empty(model)
    return model


def causal_prefill(spec: TransformerSpec, weights: Mapping[str, Any]) -> Any:
    """Return OpenVINO's model of "tokens" (B, T) to logits (B, T, V), and keys and values of each layer."""
    module = _Prefill(load_gpt(spec, weights)).eval()
    example = torch.zeros(2, 3, dtype=torch.int64)
    model = import_module("openvino").convert_model(module, example_input=example, input=[[-1, -1]])
    model.inputs[0].get_tensor().set_names({"tokens"})
    return model


def _begin_empty(model: Any) -> None:
    """Let each state begin with no position, for as many rows as the tokens have."""
    ops = import_module("openvino.opset13")

    def one(value: int) -> Any:
        return ops.constant(np.array([value], dtype=np.int64))

    rows = ops.gather(ops.shape_of(model.input("tokens"), output_type="i64"), one(0), ops.constant(np.int64(0)))
    for state in model.get_ops():
        if state.get_type_name() == "ReadValue":
            shape = state.get_output_partial_shape(0)
            heads, size = shape[1].get_length(), shape[3].get_length()
            dimensions = ops.concat([rows, one(heads), one(0), one(size)], axis=0)
            state.set_arguments([ops.broadcast(ops.constant(np.float32(0)), dimensions)])
    model.validate_nodes_and_infer_types()


class _Step(nn.Module):
    """One step, written as OpenVINO's own exporters write it, so that it finds the cache in it."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(
        self, tokens: torch.Tensor, position: torch.Tensor, rows: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        gpt = self.gpt
        x = gpt.tok_emb(tokens) + gpt.pos_emb[:, position]
        present = []
        for index, block in enumerate(gpt.blocks):
            assert isinstance(block, Block)
            q, k, v = _projected(block, x)
            k = torch.cat((past[2 * index].index_select(0, rows), k), dim=2)
            v = torch.cat((past[2 * index + 1].index_select(0, rows), v), dim=2)
            present += [k, v]
            x = _finished(block, x, F.scaled_dot_product_attention(q, k, v))
        return (gpt.head(gpt.ln_f(x)), *present)


class _Prefill(nn.Module):
    """Many tokens at once, each of which sees those before it."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gpt = self.gpt
        x = gpt.tok_emb(tokens) + gpt.pos_emb[:, : tokens.shape[1]]
        present = []
        for block in gpt.blocks:
            assert isinstance(block, Block)
            q, k, v = _projected(block, x)
            present += [k, v]
            x = _finished(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return (gpt.head(gpt.ln_f(x)), *present)


def _projected(block: Block, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values (B, H, T, D) of a block's input (B, T, C)."""
    attention, normed = block.attn, block.ln1(x)
    batch, count, width = normed.shape
    shape = (batch, count, attention.num_heads, width // attention.num_heads)
    parts = (attention.query, attention.key, attention.value)
    return tuple(part(normed).view(shape).transpose(1, 2) for part in parts)


def _finished(block: Block, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Return a block's output (B, T, C) of its input and its mixed values (B, H, T, D)."""
    x = x + block.attn.proj(mixed.transpose(1, 2).reshape(x.shape))
    out: torch.Tensor = x + block.mlp(block.ln2(x))
    return out
