"""The transformer's segments: with attention in between they are the whole-graph transformer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from tests import tolerances
from tests.runtime.small_models import make_model, random_tokens
from trt_vqgan.errors import ExportError
from trt_vqgan.export.gpu_transformer import transformer_tensors, write_transformer
from trt_vqgan.kernels.reference.cached_attention import cached_attention
from trt_vqgan.spec import TransformerSpec


def weights_of(model: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return a GPT's weights as an export sees them."""
    return {f"transformer.{key}": value.detach().numpy() for key, value in model.state_dict().items()}


def read_tensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a safetensors file, read by hand."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    kinds = {"F32": np.float32, "F16": np.float16}
    return {
        name: np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


def logits_through_segments(
    segments: list[Path], weights: Path, spec: TransformerSpec, tokens: NDArray[np.int64], *, cuts: list[int]
) -> NDArray[np.float32]:
    """Return logits float32 (B, T, V) of tokens int64 (B, T) given in pieces that end at ``cuts``."""
    tensors = read_tensors(weights)
    sessions = [ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in segments]
    half = tensors["head.weight"].dtype
    batch, total = tokens.shape
    shape = (batch, spec.num_heads, total, spec.head_size)
    caches = [(np.full(shape, np.nan, half), np.full(shape, np.nan, half)) for _ in range(spec.num_layers)]
    logits = []
    for start, end in zip([0, *cuts], [*cuts, total], strict=True):
        places = np.arange(start, end)
        x = (tensors["tok_emb.weight"][tokens[:, start:end]].astype(np.float32)) + tensors["pos_emb"][places]
        (qkv,) = sessions[0].run(None, {"x": x})
        for layer in range(spec.num_layers):
            attended = np.empty((batch, end - start, spec.hidden_size), half)
            split = qkv.reshape(batch, end - start, 3, spec.num_heads, spec.head_size)
            lengths = np.full(batch, start, np.int32)
            cached_attention(split, *caches[layer], lengths, attended, num_unmasked=spec.num_unmasked)
            made = sessions[layer + 1].run(None, {"x": x, "attended": attended})
            if layer + 1 < spec.num_layers:
                x, qkv = made
        logits.append(made[0])
    return np.concatenate(logits, axis=1)


def whole_graph_logits(model: object, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    engine = model.engine
    cache = engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
    return engine.prefill(cache, tokens, rows=np.arange(tokens.shape[1]))


@pytest.mark.parametrize(
    "sizes", [{}, {"num_layers": 1, "num_heads": 1, "hidden_size": 40}, {"num_layers": 3, "num_unmasked": 5}]
)
def test_float32_segments_are_the_whole_graph(tmp_path: Path, sizes: dict[str, int]) -> None:
    model = make_model(tmp_path, **sizes)
    path, segments = write_transformer(tmp_path, model.spec, weights_of(model.reference), dtype="fp32")
    assert len(segments) == model.spec.num_layers + 1
    tokens = random_tokens(model.spec, batch=3, length=9)
    wanted = whole_graph_logits(model, tokens)
    for cuts in ([], [5, 6, 7]):
        found = logits_through_segments(segments, path, model.spec, tokens, cuts=cuts)
        np.testing.assert_allclose(found, wanted, atol=tolerances.GPU_SEGMENTS_FP32 * np.abs(wanted).max())


def test_fp16_segments_are_near_and_typed(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    path, segments = write_transformer(tmp_path, model.spec, weights_of(model.reference))
    for segment in segments:
        onnx.checker.check_model(str(segment), full_check=True)
    opened = onnx.load(str(segments[1]), load_external_data=False)
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*opened.graph.input, *opened.graph.output]}
    wide, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert kinds == {"x": wide, "attended": half, "x_out": wide, "qkv": half}
    assert {t.name for t in opened.graph.initializer} <= set(read_tensors(path))
    products = sum(n.op_type == "MatMul" for n in opened.graph.node)
    assert products == 4
    tokens = random_tokens(model.spec, batch=2, length=12)
    wanted = whole_graph_logits(model, tokens)
    found = logits_through_segments(segments, path, model.spec, tokens, cuts=[4])
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < tolerances.GPU_FP16_LOGITS_RELATIVE


def test_the_weights_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    model = make_model(tmp_path)
    weights = weights_of(model.reference)
    path, _ = write_transformer(tmp_path, model.spec, weights)
    found = safetensors.load_file(path)
    assert set(found) == set(read_tensors(path)) == set(transformer_tensors(model.spec, weights))
    for part, kind in (("weight", np.float16), ("bias", np.float32)):
        stacked = np.concatenate([weights[f"transformer.blocks.1.attn.{n}.{part}"] for n in ("query", "key", "value")])
        np.testing.assert_array_equal(found[f"blocks.1.attn.qkv.{part}"], stacked.astype(kind))
    assert {found[name].dtype for name in found if found[name].ndim == 1} == {np.dtype(np.float32)}
    assert found["pos_emb"].shape == (model.spec.max_seq_len, model.spec.hidden_size)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 4096 == 4096 - 8, "elements begin at a page"


def test_a_segments_weights_are_not_those_of_another_layer(tmp_path: Path) -> None:
    """A planted fault: two layers' files swapped must show in the logits."""
    model = make_model(tmp_path, num_layers=3)
    path, segments = write_transformer(tmp_path, model.spec, weights_of(model.reference), dtype="fp32")
    tokens = random_tokens(model.spec, batch=1, length=6)
    wanted = whole_graph_logits(model, tokens)
    swapped = [segments[0], segments[2], segments[1], segments[3]]
    found = logits_through_segments(swapped, path, model.spec, tokens, cuts=[])
    assert np.abs(found - wanted).max() > 100 * tolerances.GPU_SEGMENTS_FP32 * np.abs(wanted).max()


def test_a_matrix_beyond_fp16_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    weights = weights_of(model.reference)
    weights["transformer.blocks.1.mlp.0.weight"] = weights["transformer.blocks.1.mlp.0.weight"] + np.float32(1e5)
    with pytest.raises(ExportError, match=r"blocks\.1\.mlp\.0\.weight.*does not fit float16"):
        write_transformer(tmp_path, model.spec, weights)
