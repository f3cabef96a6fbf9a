"""The reference VQGAN: published keys, layers against their formulas, and what the published code computed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
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
    to_input,
    to_pictures,
    without_quant_conv,
)
from trt_vqgan.errors import SpecError
from trt_vqgan.export.vqgan_modules import Autoencoder, Downsample, Upsample, load_autoencoder


def golden_autoencoder(folder: Path, part: str = "first_stage") -> Autoencoder:
    """Return the reference VQGAN with a golden checkpoint's weights."""
    return load_autoencoder(*golden_parts(folder, part))


@pytest.mark.parametrize("name", ["unconditional", "scene"])  # all of them: test_autoencoder_graph
def test_codes_and_picture_of_the_published_code(shared_dir: Path, name: str) -> None:
    expected = np.load(shared_dir / "golden" / name / "expected.npz")
    model = golden_autoencoder(shared_dir / "golden" / name)
    codes = model.encode_codes(to_input(expected["image"][None]))
    np.testing.assert_array_equal(codes.reshape(1, -1), expected["z_indices"])
    picture = to_pictures(model.decode_codes(codes).numpy())
    assert grey_levels(picture, expected["reconstruction"]) <= tolerances.PICTURE_GREY_LEVELS


@pytest.mark.parametrize("picture", [0, 1])
def test_gumbel_of_the_published_code(shared_dir: Path, picture: int) -> None:
    expected = np.load(shared_dir / "golden" / "gumbel_f8" / "expected.npz")
    spec, weights = golden_parts(shared_dir / "golden" / "gumbel_f8", "first_stage")
    model = load_autoencoder(spec, without_quant_conv(spec, weights))
    codes = model.encode_codes(to_input(expected[f"image{picture}"][None]))
    np.testing.assert_array_equal(codes, expected[f"indices{picture}"])
    pixels = model.decode_codes(codes).numpy()
    wanted = expected[f"reconstruction_float{picture}"]
    stride = pixels.shape[2] // wanted.shape[2]
    np.testing.assert_allclose(pixels[:, :, ::stride, ::stride], wanted, atol=1e-5)
    assert grey_levels(to_pictures(pixels), expected[f"reconstruction{picture}"]) <= tolerances.PICTURE_GREY_LEVELS


@pytest.mark.parametrize("name", ["depth", "segmentation"])
def test_condition_codes_of_the_published_code(shared_dir: Path, name: str) -> None:
    expected = np.load(shared_dir / "golden" / name / "expected.npz")
    model = golden_autoencoder(shared_dir / "golden" / name, "condition")
    codes = model.encode_codes(torch.from_numpy(condition_input(name, expected["cond_input"])))
    np.testing.assert_array_equal(codes.reshape(1, -1), expected["c_indices"])


def test_a_trained_model_of_the_published_code(shared_dir: Path) -> None:
    folder = shared_dir / "checkpoints" / "landscape_class"
    expected = np.load(folder / "expected.npz")
    model = golden_autoencoder(folder)
    codes = model.encode_codes(to_input(expected["images"][:4]))
    np.testing.assert_array_equal(codes, expected["codes"][:4])
    pictures = to_pictures(model.decode_codes(codes).numpy())
    assert grey_levels(pictures, expected["reconstructions"][:4]) <= tolerances.PICTURE_GREY_LEVELS


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    spec = CASES[name]
    model = make_autoencoder(spec)
    height, width = 2 * spec.factor, 3 * spec.factor
    z = model.encode_latents(torch.zeros(2, spec.in_channels, height, width))
    assert z.shape == (2, spec.codebook_size if spec.quantizer == "gumbel" else spec.code_dim, 2, 3)
    codes = model.encode_codes(torch.zeros(2, spec.in_channels, height, width))
    assert codes.dtype == torch.int64
    assert model.decode_codes(codes).shape == (2, spec.out_channels, height, width)


def test_strict_keys() -> None:
    weights = arrays_of(make_autoencoder(BASE))
    loaded = load_autoencoder(BASE, {f"first_stage.{k}": v for k, v in weights.items()}, prefix="first_stage.")
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.encode_latents(image), make_autoencoder(BASE).encode_latents(image))
    missing = {k: v for k, v in weights.items() if k != "decoder.norm_out.bias"}
    with pytest.raises(RuntimeError, match=r"decoder\.norm_out\.bias"):
        load_autoencoder(BASE, missing)
    with pytest.raises(RuntimeError, match="surplus"):
        load_autoencoder(BASE, {**weights, "surplus": weights["quant_conv.bias"]})


def test_gumbel_widths_must_agree() -> None:
    with pytest.raises(SpecError, match="z_channels 16 and code_dim 24"):
        Autoencoder(dataclasses.replace(BASE, quantizer="gumbel"))


def test_gumbel_ties_go_to_the_lowest_index() -> None:
    model = make_autoencoder(CASES["gumbel"])
    logits = torch.zeros(1, 50, 2, 2)
    logits[:, [7, 31]] = 1.0
    assert (model.quantize.codes(logits) == 7).all()


def test_downsampling_pads_right_and_bottom() -> None:
    layer = Downsample(1, with_conv=True)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 2, 2] = 1.0
        layer.conv.bias.zero_()
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(layer(x).detach()[0, 0], [[10, 0], [0, 0]])  # the tap looks two down and right
    np.testing.assert_array_equal(Downsample(1, with_conv=False)(x)[0, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_upsampling_repeats_pixels() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    np.testing.assert_array_equal(Upsample(1, with_conv=False)(x)[0, 0], [[1, 1, 2, 2], [1, 1, 2, 2]])
