"""The stages of encoder and decoder, on the shim: what a GPU checks and times, done once here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.export.autoencoder_cases import CASES
from tests.runtime.gpu.shim_device import ShimDevice
from trt_vqgan.benchmarks.gpu_check import golden_files
from trt_vqgan.benchmarks.gpu_check.golden_pictures import GoldenPictures, read_pictures
from trt_vqgan.benchmarks.gpu_check.picture_times_stage import TimedDecoder, torch_decoder
from trt_vqgan.benchmarks.gpu_check.pictures_stage import check_pictures
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.benchmarks.shapes import PUBLISHED_F16

RUN = ROOT / "tests" / "data" / "golden" / "class"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> GoldenPictures:
    """A golden VQGAN as it is carried, of a corner of its picture, which takes a second."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_files, "_runs", lambda: iter([RUN]))
        golden_files.prepare(folder)
    (found,) = read_pictures(folder)
    np.testing.assert_array_equal(found.image, np.load(RUN / "expected.npz")["image"])
    return found


def corner(golden: GoldenPictures, device: ShimDevice, codes: np.ndarray | None = None) -> GoldenPictures:
    """Return a golden of 3x3 codes, whose picture is what our kernels make of its codes."""
    from tests.runtime.gpu.small_networks import device_autoencoder
    from trt_vqgan.runtime.autoencoder import from_uint8
    from trt_vqgan.runtime.gpu.code_operations import CudaCodeOperations
    from trt_vqgan.runtime.gpu.executors.cuda_networks import CudaNetworkExecutor

    side = 3 * golden.spec.factor
    image = golden.image[:side, :side]
    ours = device_autoencoder(
        Path(),
        golden.spec,
        {"quantize.embedding.weight": golden.codebook},
        device=device,
        executor=CudaNetworkExecutor(golden.spec, golden.graphs, device),
        operations=CudaCodeOperations(device, golden.codebook),
    )
    codes = ours.encode(from_uint8(image[None])) if codes is None else codes
    return dataclasses.replace(golden, image=image, codes=codes, reconstruction=ours.decode(codes))


def found_by(golden: GoldenPictures, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    check_pictures(Records(folder / "records", ceilings={}), golden, ShimDevice())
    return read_records(folder / "records")


def test_what_a_gpu_checks_of_pictures(golden: GoldenPictures, tmp_path: Path) -> None:
    """Also planted: codes and a picture that are others."""
    right = corner(golden, ShimDevice())
    found = found_by(right, tmp_path)
    assert [record["ok"] for record in found] == [True] * 3
    assert found[0]["detail"] == "0 of 9 codes differ"
    wrong = dataclasses.replace(right, codes=(right.codes + 1) % golden.spec.codebook_size)
    assert [record["ok"] for record in found_by(wrong, tmp_path / "wrong")] == [False, False, True]


def test_a_timed_decoder_is_torch_s(tmp_path: Path) -> None:
    """So that the baseline is one."""
    spec = CASES["base"]
    timed = TimedDecoder(ShimDevice(), spec)
    device: Any = timed._device
    latents, planes = timed.arrays(1, 3)
    codebook = timed.model.quantize.embedding.weight if hasattr(timed.model.quantize, "embedding") else None
    assert codebook is not None
    entry = codebook[0].detach().numpy().astype(np.float16)
    device.view(latents)[...] = entry
    timed.issue(latents, planes)
    wanted = torch_decoder(timed.model, 1, 3, device="cpu", half=False)().numpy()
    np.testing.assert_allclose(device.view(planes), wanted, atol=0.02)


def test_the_work_of_the_published_decoder() -> None:
    """A fused multiply-add counts as two; the weights are those of the published file."""

    class Sizes:
        def __init__(self) -> None:
            self.convs: dict[str, Any] = {}

    timed = TimedDecoder.__new__(TimedDecoder)
    import torch

    from trt_vqgan.export.vqgan_modules import Autoencoder
    from trt_vqgan.kernels.packed_conv import ConvLayer
    from trt_vqgan.runtime.native.network_program import decoder_steps

    with torch.device("meta"):
        state = Autoencoder(PUBLISHED_F16).state_dict()
    timed._spec = PUBLISHED_F16
    timed.steps = decoder_steps(PUBLISHED_F16, has=lambda layer: f"{layer}.weight" in state)
    sizes: Any = Sizes()
    for step in timed.steps:
        if step.kind == "convolve":
            outputs, channels, side, _ = state[f"{step.conv}.weight"].shape
            layer = ConvLayer(channels=channels, outputs=outputs, padded_outputs=0, side=side, depth=0, is_half=True)
            sizes.convs[step.conv] = dataclasses.make_dataclass("Conv", ["layer"])(layer)
    timed.weights = sizes
    small, large = timed.work(1, 16), timed.work(1, 64)
    names = [name for name in state if name.startswith(("decoder.", "post_quant"))]
    parameters = sum(state[name].numel() for name in names if state[name].ndim == 4)
    assert small.bytes == 2 * (parameters + 16 * 16 * 256 + 256 * 256 * 3)
    assert 15.9 < large.flop / small.flop < 20
    assert 1e11 < small.flop < 1e12
