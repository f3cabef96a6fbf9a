"""A bundle's encoder and decoder through the CPU kernels, in the precision that was chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import trt_vqgan
from tests.tolerances import PICTURE_BF16_PSNR_DB, PICTURE_GREY_LEVELS
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.native import picture_precision
from trt_vqgan.runtime.native.build import built_library, find_compiler, find_library
from trt_vqgan.runtime.native.network_library import best_instructions, open_network_library
from trt_vqgan.runtime.native.picture_precision import decoder_precision
from trt_vqgan.runtime.psnr import psnr_db

if find_compiler() is None and find_library() is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)


def has_bf16() -> bool:
    return best_instructions(open_network_library(built_library()), bf16=True) != ""


def test_the_demo_in_both_precisions(demo_bundle: Path) -> None:
    if not has_bf16():
        pytest.skip("this processor has no AMX")
    with (
        trt_vqgan.load(demo_bundle, backend="onnxruntime", threads=2) as onnx,
        trt_vqgan.load(demo_bundle, backend="native", threads=2, picture_precision="fp32") as fp32,
        trt_vqgan.load(demo_bundle, backend="native", threads=2) as auto,
    ):
        pictures, codes = fp32.generate(n=6, seed=1).images, fp32.generate(n=6, seed=1).codes
        np.testing.assert_array_equal(auto.generate(n=6, seed=1).codes, codes)
        np.testing.assert_array_equal(auto.encode(pictures), onnx.encode(pictures))
        assert np.abs(onnx.decode(codes).astype(int) - pictures).max() <= PICTURE_GREY_LEVELS
        rounded = auto.decode(codes)
        assert not np.array_equal(rounded, pictures)
        assert psnr_db(rounded, pictures) > PICTURE_BF16_PSNR_DB
        assert "decoder bf16" in auto.precision
        assert "AMX bf16" in auto.backend_details
        assert "bf16" not in fp32.precision + fp32.backend_details


@pytest.mark.parametrize(
    ("precisions", "asked", "wanted"),
    [
        ({"decoder": "fp32", "transformer": "fp32"}, "auto", "fp32"),
        ({}, "auto", "fp32"),
        ({"decoder": "fp16 weights"}, "auto", "bf16"),
        ({"decoder": "fp32", "transformer": "int4"}, "auto", "bf16"),
        ({"decoder": "fp16 weights", "transformer": "int8"}, "fp32", "fp32"),
        ({"decoder": "fp32", "transformer": "fp32"}, "bf16", "bf16"),
    ],
)
def test_which_precision_is_taken(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, precisions: dict[str, str], asked: str, wanted: str
) -> None:
    manifest = dataclasses.replace(read_manifest(demo_bundle), precision=precisions)
    monkeypatch.setattr(picture_precision, "best_instructions", lambda library, *, bf16: "AMX bf16")
    assert decoder_precision(asked, manifest) == wanted  # type: ignore[arg-type]
    monkeypatch.setattr(picture_precision, "best_instructions", lambda library, *, bf16: "")
    if asked == "bf16":
        with pytest.raises(BackendUnavailableError, match="no AMX.*--picture-precision fp32"):
            decoder_precision("bf16", manifest)
    else:
        assert decoder_precision(asked, manifest) == "fp32", "what the processor hasn't got"  # type: ignore[arg-type]
