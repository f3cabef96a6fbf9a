"""The VQGAN's graphs for GPUs: the float32 twin is the CPU graph, FP16 is near it, and overflow is found and mended."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from tests import tolerances
from tests.export.autoencoder_cases import BASE, CASES, arrays_of, golden_parts, make_autoencoder, run, session
from trt_vqgan.errors import ExportError
from trt_vqgan.export.autoencoder_graph import codebook_key, decoder_graph, encoder_graph
from trt_vqgan.export.gpu_autoencoder import gpu_decoder_graph, gpu_encoder_graph
from trt_vqgan.export.gpu_ranges import extreme_codes, extreme_maps, wide_decoder_layers, wide_encoder_layers
from trt_vqgan.export.half_rounding import rounded
from trt_vqgan.kernels.reference.nearest_code import nearest_code

RNG = np.random.default_rng(0)
FAULT = "decoder.mid.block_1"


def latents_of(codebook: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return what a FP16 decoder reads, in float32."""
    return codebook[codes].astype(np.float16).astype(np.float32)


def psnr(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the PSNR in dB of pictures in [-1, 1]; -inf where one isn't finite."""
    error = np.mean(np.square(found.clip(-1, 1) - wanted.clip(-1, 1)), dtype=np.float64)
    return 10 * math.log10(4 / error) if np.isfinite(found).all() else -math.inf


def overflowing(weights: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return weights of a decoder with large values inside one block, of which a norm keeps nothing."""
    keys = [f"{FAULT}.conv1.{part}" for part in ("weight", "bias")]
    return {**weights, **{key: weights[key] * np.float32(3e5) for key in keys}}


@pytest.mark.parametrize("case", CASES)
def test_the_float32_twin_is_the_graph_of_the_cpu(case: str) -> None:
    spec = CASES[case]
    weights = arrays_of(make_autoencoder(spec))
    maps = RNG.standard_normal((2, spec.in_channels, 32, 32)).astype(np.float32)
    codes = RNG.integers(0, spec.codebook_size, (2, 8, 8))
    latents = run(encoder_graph(spec, weights), maps)
    found = run(gpu_encoder_graph(spec, weights, dtype="fp32"), maps)
    wanted = latents.argmax(axis=1) if spec.quantizer == "gumbel" else latents.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found, wanted)
    pixels = run(gpu_decoder_graph(spec, weights, dtype="fp32"), weights[codebook_key(spec)][codes])
    np.testing.assert_array_equal(pixels, run(decoder_graph(spec, weights), codes))


@pytest.mark.parametrize("case", ["base", "f8", "gumbel", "labels", "resampling without convolution"])
def test_fp16_graphs_are_typed_and_near(case: str) -> None:
    spec = CASES[case]
    weights = arrays_of(make_autoencoder(spec))
    encoder, decoder = gpu_encoder_graph(spec, weights), gpu_decoder_graph(spec, weights)
    for model in (encoder, decoder):
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version >= 21
        half = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
        assert sum(math.prod(t.dims) for t in half) > 0.9 * sum(math.prod(t.dims) for t in model.graph.initializer)
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*decoder.graph.input, *decoder.graph.output]}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    norms = [n for n in decoder.graph.node if n.op_type == "GroupNormalization"]
    assert norms
    assert all({a.name: a for a in n.attribute}["stash_type"].i == onnx.TensorProto.FLOAT for n in norms)
    codes = RNG.integers(0, spec.codebook_size, (2, 8, 8))
    wanted = run(decoder_graph(spec, weights), codes)
    found = run(rounded(decoder), latents_of(weights[codebook_key(spec)], codes))
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < error < tolerances.GPU_FP16_RELATIVE


def test_a_missing_weight_and_one_beyond_fp16_are_named() -> None:
    weights = arrays_of(make_autoencoder(BASE))
    key = "decoder.mid.attn_1.q.bias"
    with pytest.raises(ExportError, match=key):
        gpu_decoder_graph(BASE, {name: value for name, value in weights.items() if name != key})
    large = weights | {key: weights[key] + np.float32(1e5)}
    with pytest.raises(ExportError, match=f"{key}.*does not fit float16"):
        gpu_decoder_graph(BASE, large)
    gpu_decoder_graph(BASE, large, wider=["decoder.mid.attn_1"])


def test_a_layer_that_overflows_is_found_and_kept_wider() -> None:
    weights = arrays_of(make_autoencoder(BASE))
    codebook = weights[codebook_key(BASE)]
    assert wide_decoder_layers(BASE, weights) == ()
    assert wide_encoder_layers(BASE, weights) == ()
    faulty = overflowing(weights)
    wide = wide_decoder_layers(BASE, faulty)
    assert wide == (FAULT,)
    codes = extreme_codes(codebook, BASE.latent_size)
    wanted = run(decoder_graph(BASE, faulty), codes)
    latents = latents_of(codebook, codes)
    assert psnr(run(rounded(gpu_decoder_graph(BASE, faulty)), latents), wanted) < 0, "the fault must show"
    assert psnr(run(rounded(gpu_decoder_graph(BASE, faulty, wider=wide)), latents), wanted) > tolerances.GPU_DECODE_DB


def test_an_encoder_that_overflows_is_found() -> None:
    weights = arrays_of(make_autoencoder(BASE))
    key = "encoder.down.1.block.0.conv2.bias"
    found = wide_encoder_layers(BASE, weights | {key: weights[key] + np.float32(3e4)})
    # its sum goes down the residual stream, to what reads it
    assert found[:2] == ("encoder.down.1.block.0", "encoder.down.1.downsample")
    assert "encoder.conv_in" not in found


def test_the_trained_decoder_in_fp16(shared_dir: Path) -> None:
    spec, weights = golden_parts(shared_dir / "checkpoints" / "landscape_class", "first_stage")
    codebook = weights[codebook_key(spec)]
    side = spec.latent_size
    codes = np.concatenate([extreme_codes(codebook, side), np.zeros((1, side, side), np.int64)])
    assert wide_decoder_layers(spec, weights) == ()
    graph, half = session(decoder_graph(spec, weights)), session(rounded(gpu_decoder_graph(spec, weights)))
    for grid in codes:
        wanted = graph.run(None, {"codes": grid[None]})[0]
        found = half.run(None, {"latents": latents_of(codebook, grid[None])})[0]
        assert psnr(found, wanted) > tolerances.GPU_DECODE_DB


def test_the_trained_encoder_in_fp16(shared_dir: Path) -> None:
    spec, weights = golden_parts(shared_dir / "checkpoints" / "landscape_class", "first_stage")
    maps = extreme_maps(spec)
    codebook = weights[codebook_key(spec)]
    wanted = run(encoder_graph(spec, weights), maps).transpose(0, 2, 3, 1).reshape(-1, spec.code_dim)
    found = run(rounded(gpu_encoder_graph(spec, weights)), maps).reshape(-1, spec.code_dim)
    equal = nearest_code(np.ascontiguousarray(wanted), codebook) == nearest_code(found, codebook)
    assert equal.mean() > tolerances.GPU_ENCODE_EQUAL_CODES
