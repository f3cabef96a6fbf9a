"""Encoder and decoder graphs in ONNX Runtime against the reference modules and the published code's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests import tolerances
from tests.export.autoencoder_cases import (
    BASE,
    CASES,
    arrays_of,
    condition_input,
    golden_parts,
    grey_levels,
    make_autoencoder,
    run,
    session,
    to_input,
    to_pictures,
    without_quant_conv,
)
from trt_vqgan.errors import ExportError
from trt_vqgan.export.autoencoder_graph import LayerWriter, codebook_key, decoder_graph, encoder_graph
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.spec import AutoencoderSpec

RNG = np.random.default_rng(0)


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", CASES)
def test_encoder_equals_torch(name: str) -> None:
    spec, model = CASES[name], make_autoencoder(CASES[name])
    image = RNG.uniform(-1, 1, (2, spec.in_channels, 3 * spec.factor, 5 * spec.factor)).astype(np.float32)
    wanted = model.encode_latents(torch.from_numpy(image)).numpy()
    graph = encoder_graph(spec, arrays_of(model))
    onnx.checker.check_model(graph, full_check=True)
    assert [o.name for o in graph.graph.output] == ["logits" if spec.quantizer == "gumbel" else "z"]
    found = run(graph, image)
    assert found.shape == wanted.shape
    assert relative_error(found, wanted) < tolerances.AUTOENCODER_RELATIVE


@pytest.mark.parametrize("name", CASES)
def test_decoder_equals_torch(name: str) -> None:
    spec, model = CASES[name], make_autoencoder(CASES[name])
    codes = RNG.integers(0, spec.codebook_size, (2, 3, 5))
    wanted = model.decode_codes(torch.from_numpy(codes)).numpy()
    graph = decoder_graph(spec, arrays_of(model))
    onnx.checker.check_model(graph, full_check=True)
    found = run(graph, codes)
    assert found.shape == (2, spec.out_channels, 3 * spec.factor, 5 * spec.factor)
    assert relative_error(found, wanted) < tolerances.AUTOENCODER_RELATIVE


@pytest.mark.parametrize("build", [encoder_graph, decoder_graph])
def test_only_standard_operators(build: Any) -> None:
    for name, spec in CASES.items():
        graph = build(spec, arrays_of(make_autoencoder(spec)))
        assert {node.domain for node in graph.graph.node} == {""}, name
        assert [(o.domain, o.version >= 21) for o in graph.opset_import] == [("", True)]


def test_batch_height_and_width_are_dynamic() -> None:
    model = make_autoencoder(BASE)
    opened = session(decoder_graph(BASE, arrays_of(model)))
    for shape in [(1, 8, 8), (3, 1, 2), (2, 7, 4)]:
        codes = RNG.integers(0, BASE.codebook_size, shape)
        wanted = model.decode_codes(torch.from_numpy(codes)).numpy()
        assert relative_error(opened.run(None, {"codes": codes})[0], wanted) < tolerances.AUTOENCODER_RELATIVE


def test_a_moved_weight_is_noticed() -> None:
    """A planted fault: two norms of the same width exchanged."""
    model = make_autoencoder(BASE)
    weights = arrays_of(model)
    first, second = "decoder.mid.block_1.norm1.weight", "decoder.mid.block_1.norm2.weight"
    weights[first], weights[second] = weights[second], weights[first]
    codes = RNG.integers(0, BASE.codebook_size, (1, 4, 4))
    wanted = model.decode_codes(torch.from_numpy(codes)).numpy()
    assert relative_error(run(decoder_graph(BASE, weights), codes), wanted) > tolerances.AUTOENCODER_RELATIVE


def test_float16_storage_halves_the_kernels_and_stays_near() -> None:
    model = make_autoencoder(BASE)
    weights = arrays_of(model)
    codes = RNG.integers(0, BASE.codebook_size, (1, 4, 4))
    full, half = decoder_graph(BASE, weights), decoder_graph(BASE, weights, weight_dtype="fp16")
    assert half.ByteSize() < 0.6 * full.ByteSize()
    wanted = model.decode_codes(torch.from_numpy(codes)).numpy()
    error = relative_error(run(half, codes), wanted)
    assert 1e-6 < error < tolerances.AUTOENCODER_FP16_WEIGHTS_RELATIVE
    codebook = next(t for t in half.graph.initializer if t.name == codebook_key(BASE))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(codebook), weights[codebook_key(BASE)])


def test_a_missing_weight_is_named() -> None:
    weights = arrays_of(make_autoencoder(BASE))
    del weights["encoder.mid.attn_1.q.bias"]
    with pytest.raises(ExportError, match=r"encoder\.mid\.attn_1\.q\.bias"):
        encoder_graph(BASE, weights)


def _norm_graph(channels: int, gamma: NDArray[np.float32], beta: NDArray[np.float32], *, one_pass: bool) -> Any:
    layers = LayerWriter("norm", BASE, {"norm.weight": gamma, "norm.bias": beta}, "fp32")
    g = layers.graph
    x = g.input("x", np.float32, ["B", channels, "H", "W"])
    if one_pass:
        y = g.node("GroupNormalization", [x, g.constant(gamma), g.constant(beta)], epsilon=1e-6, num_groups=32)
    else:
        y = layers.norm(x, "norm")
    g.output("y", np.float32, ["B", channels, "H", "W"], y)
    return g.model()


def _hard_norm_error(channels: int, *, one_pass: bool) -> float:
    """Return the largest error against float64 on nearly constant, constant and otherwise awkward groups."""
    gamma, beta = RNG.uniform(0.5, 1.5, channels).astype(np.float32), RNG.standard_normal(channels).astype(np.float32)
    shape = (1, channels, 48, 80)
    nearly = (3 + 0.01 * RNG.standard_normal(shape)).astype(np.float32)
    constant = np.full(shape, 3.14159, np.float32)
    spike = constant.copy()
    spike[:, :, 5, 7] += 1e-3
    steps = np.full(shape, 3, np.float32)
    steps[:, 1::2, ::7, ::5] += 0.01
    x = np.concatenate([nearly, constant, spike, steps, nearly - 500])
    wide = x.astype(np.float64).reshape(len(x), 32, -1)
    wide = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + 1e-6)
    wanted = wide.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]
    error = np.abs(run(_norm_graph(channels, gamma, beta, one_pass=one_pass), x) - wanted).max()
    return float(np.nan_to_num(error, nan=np.inf))


@pytest.mark.parametrize("channels", [32, 128])
def test_norm_is_accurate_on_nearly_constant_groups(channels: int) -> None:
    assert _hard_norm_error(channels, one_pass=False) < tolerances.GROUP_NORM_ABSOLUTE


def test_the_norm_check_notices_one_pass_statistics() -> None:
    assert _hard_norm_error(32, one_pass=True) > 0.1


def _codes(spec: AutoencoderSpec, weights: dict[str, NDArray[np.float32]], image: NDArray[np.float32]) -> Any:
    out = run(encoder_graph(spec, weights), image)
    if spec.quantizer == "gumbel":
        return out.argmax(axis=1)
    rows = np.ascontiguousarray(out.transpose(0, 2, 3, 1)).reshape(-1, spec.code_dim)
    codes = nearest_code(rows, np.ascontiguousarray(weights[codebook_key(spec)]))
    return codes.reshape(len(image), *out.shape[2:])


@pytest.mark.parametrize("name", ["unconditional", "class", "depth", "segmentation", "coord", "scene"])
def test_graphs_equal_the_published_code(shared_dir: Path, name: str) -> None:
    expected = np.load(shared_dir / "golden" / name / "expected.npz")
    spec, weights = golden_parts(shared_dir / "golden" / name, "first_stage")
    codes = _codes(spec, weights, to_input(expected["image"][None]).numpy())
    np.testing.assert_array_equal(codes.reshape(1, -1), expected["z_indices"])
    picture = to_pictures(run(decoder_graph(spec, weights), codes))
    assert grey_levels(picture, expected["reconstruction"]) <= tolerances.PICTURE_GREY_LEVELS


@pytest.mark.parametrize("picture", [0, 1])
def test_gumbel_graphs_equal_the_published_code(shared_dir: Path, picture: int) -> None:
    expected = np.load(shared_dir / "golden" / "gumbel_f8" / "expected.npz")
    spec, weights = golden_parts(shared_dir / "golden" / "gumbel_f8", "first_stage")
    image = to_input(expected[f"image{picture}"][None]).numpy()
    codes = _codes(spec, without_quant_conv(spec, weights), image)
    np.testing.assert_array_equal(codes, expected[f"indices{picture}"])
    pictures = to_pictures(run(decoder_graph(spec, weights), codes))
    assert grey_levels(pictures, expected[f"reconstruction{picture}"]) <= tolerances.PICTURE_GREY_LEVELS


@pytest.mark.parametrize("name", ["depth", "segmentation"])
def test_condition_graphs_equal_the_published_code(shared_dir: Path, name: str) -> None:
    expected = np.load(shared_dir / "golden" / name / "expected.npz")
    spec, weights = golden_parts(shared_dir / "golden" / name, "condition")
    codes = _codes(spec, weights, condition_input(name, expected["cond_input"]))
    np.testing.assert_array_equal(codes.reshape(1, -1), expected["c_indices"])


def test_graphs_of_a_trained_model(shared_dir: Path) -> None:
    folder = shared_dir / "checkpoints" / "landscape_class"
    expected = np.load(folder / "expected.npz")
    spec, weights = golden_parts(folder, "first_stage")
    codes = _codes(spec, weights, to_input(expected["images"]).numpy())
    np.testing.assert_array_equal(codes, expected["codes"])
    pictures = to_pictures(run(decoder_graph(spec, weights), codes[:4]))
    assert grey_levels(pictures, expected["reconstructions"][:4]) <= tolerances.PICTURE_GREY_LEVELS
