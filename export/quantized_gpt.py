"""The reference GPT with weights of 8 and 4 bits, matrix by matrix: what a graph of such weights computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trt_vqgan.export.gpt_modules import GPT, Block
from trt_vqgan.export.one_thread_workers import OneThreadWorkers
from trt_vqgan.export.weight_quantization import (
    INT4,
    INT8,
    BlockForm,
    QuantizedMatrix,
    quantize_blockwise,
    quantize_rows,
)

INPUT_PROJECTIONS = ("query", "key", "value")


def matrix_names(num_layers: int) -> tuple[str, ...]:
    """Return the layers' matrices that have a form of their own; those that make queries, keys and values share one."""
    parts = ("attn", "attn.proj", "mlp.0", "mlp.2")
    return tuple(f"blocks.{layer}.{part}" for layer in range(num_layers) for part in parts)


class QuantizedGPT:
    """A GPT whose matrices change between 8 and 4 bits; head and embeddings have 8.

    Products read activations in 8 bits too, by row and block, as the runtime's do.

    Parameters
    ----------
    gpt : float32; it is changed in place and must not be used for anything else afterwards.
    workers : who quantise.
    """

    def __init__(self, gpt: GPT, workers: OneThreadWorkers) -> None:
        self.gpt = gpt
        self._layers = {name: _linear_layers(gpt, name) for name in matrix_names(gpt.spec.num_layers)}
        self._kept: dict[tuple[str, BlockForm], list[QuantizedMatrix]] = {}
        self._block: dict[nn.Linear, int] = {gpt.head: INT8.block}

        def quantize(name: str) -> None:
            for form in (INT8, INT4):
                self._kept[name, form] = [quantize_blockwise(_array(each.weight), form) for each in self._layers[name]]
            self.set_form(name, INT8)

        workers.map(quantize, self._layers)
        self._write(gpt.head, quantize_blockwise(_array(gpt.head.weight), INT8))
        for table in (gpt.tok_emb.weight, gpt.pos_emb):
            codes, scales = quantize_rows(_array(table).reshape(-1, gpt.spec.hidden_size))
            table.data = torch.from_numpy(codes * scales).reshape(table.shape)
        for layer in self._block:
            layer.register_forward_pre_hook(self._round_inputs)

    def set_form(self, name: str, form: BlockForm) -> None:
        """Keep matrix ``name`` in ``form`` from now on."""
        for layer, matrix in zip(self._layers[name], self._kept[name, form], strict=True):
            self._write(layer, matrix)
            self._block[layer] = form.block

    def layers(self, name: str) -> list[nn.Linear]:
        """Return the layers that matrix ``name`` consists of."""
        return self._layers[name]

    def narrowing(self, name: str) -> list[torch.Tensor]:
        """Return what 4 bits instead of 8 add to the weights of each of a matrix's layers, float32 (N, K)."""
        kept = zip(self._layers[name], self._kept[name, INT4], self._kept[name, INT8], strict=True)
        return [
            torch.from_numpy(four.dequantized(layer.in_features) - eight.dequantized(layer.in_features))
            for layer, four, eight in kept
        ]

    def weights(self, name: str) -> int:
        """Return how many weights a matrix has."""
        return sum(layer.weight.numel() for layer in self._layers[name])

    def _write(self, layer: nn.Linear, matrix: QuantizedMatrix) -> None:
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(matrix.dequantized(layer.in_features)))

    def _round_inputs(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        assert isinstance(layer, nn.Linear)
        exact = inputs[0].detach()
        rounded = rounded_rows(exact, self._block[layer])
        # rounding's own gradient is 0 everywhere: it is passed over
        return inputs[0] + (rounded - exact) if inputs[0].requires_grad else rounded


def rounded_rows(x: torch.Tensor, block: int) -> torch.Tensor:
    """Return ``x`` (…, K) rounded to 8 bits with a scale a row and block of K."""
    width = x.shape[-1]
    padded = nn.functional.pad(x, (0, -width % block))
    blocks = padded.reshape(*padded.shape[:-1], -1, block)
    scales = blocks.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
    rounded: torch.Tensor = ((blocks / scales).round() * scales).reshape(padded.shape)[..., :width]
    return rounded


def _linear_layers(gpt: GPT, name: str) -> list[nn.Linear]:
    block = gpt.blocks[int(name.split(".")[1])]
    assert isinstance(block, Block)
    if name.endswith(".attn"):
        return [getattr(block.attn, part) for part in INPUT_PROJECTIONS]
    layer = {"attn.proj": block.attn.proj, "mlp.0": block.mlp[0], "mlp.2": block.mlp[2]}[name.split(".", 2)[2]]
    assert isinstance(layer, nn.Linear)
    return [layer]


def _array(weight: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = weight.detach().numpy()
    return array


def quantized_bits(weights: Mapping[str, int], wider: frozenset[str]) -> float:
    """Return the mean bits a weight, scales included, with matrices ``wider`` in 8 bits and the others in 4."""
    bits = {form: form.bits + 16 / form.block for form in (INT8, INT4)}
    total = sum(count * bits[INT8 if name in wider else INT4] for name, count in weights.items())
    return total / sum(weights.values())
