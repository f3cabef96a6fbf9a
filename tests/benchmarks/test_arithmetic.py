"""Operations and bytes that are computed from sizes, against torch's counter and against the graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.tiny_models import TINY
from trt_vqgan.benchmarks.arithmetic import (
    decoder_operations,
    encoder_operations,
    prefill_operations,
    step_weight_bytes,
)
from trt_vqgan.benchmarks.engines import stored_weight_bytes
from trt_vqgan.benchmarks.random_models import RandomWeights, write_transformer
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.errors import SpecError
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.export.vqgan_modules import Autoencoder


def test_autoencoder_operations_are_those_that_torch_counts() -> None:
    spec = TINY.autoencoder
    model = Autoencoder(spec)
    with FlopCounterMode(display=False) as counter:
        model.encode_latents(torch.zeros(1, 3, 16, 16))
    assert encoder_operations(spec) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model.decode_codes(torch.zeros(1, 8, 8, dtype=torch.int64))
    assert decoder_operations(spec) == counter.get_total_flops()


def test_prefill_operations_are_those_that_torch_counts() -> None:
    spec = TINY.transformer
    assert spec is not None
    tokens, width = 9, spec.hidden_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        GPT(spec)(torch.zeros(2, tokens, dtype=torch.int64))
    # torch computes the scores of pairs that don't see each other, T (T - 1) / 2 of them, and drops them
    unseen = 2 * 2 * spec.num_layers * 2 * width * tokens * (tokens - 1) // 2
    assert prefill_operations(spec, batch=2, tokens=tokens, rows=tokens) == counter.get_total_flops() - unseen


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_step_bytes_are_those_of_the_graphs_matrices(tmp_path: Path, precision: str) -> None:
    assert TINY.transformer is not None
    path = write_transformer(tmp_path, TINY, RandomWeights(TINY), precision=precision)
    total = 0
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.endswith((".weight", ".codes", ".scales")) and not tensor.name.startswith(
            ("tok_emb", "pos_emb")
        ):
            array = onnx.numpy_helper.to_array(tensor)
            if array.ndim > 1:
                total += array.size * (4 if array.dtype == np.float16 else array.itemsize)  # scales become float32
    assert step_weight_bytes(TINY.transformer, precision) == total
    assert stored_weight_bytes(path, TINY.transformer, scale_bytes=4) == total


def test_an_unknown_precision_is_refused() -> None:
    assert TINY.transformer is not None
    with pytest.raises(SpecError, match="int3"):
        step_weight_bytes(TINY.transformer, "int3")


def test_models_of_shape() -> None:
    assert model_of_shape(12, width=768).transformer.num_heads == 12  # type: ignore[union-attr]
    assert model_of_shape(1, width=1664).transformer.head_size == 64  # type: ignore[union-attr]
    assert model_of_shape(1, width=416).transformer.num_heads == 16  # type: ignore[union-attr]
    assert model_of_shape(1, width=7).transformer.num_heads == 1  # type: ignore[union-attr]
    assert model_of_shape(3, width=64).num_codes == 256
    with pytest.raises(SpecError, match="LAYERSxWIDTH"):
        model_of_shape(0, width=64)
