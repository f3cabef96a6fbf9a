"""A VQGAN's networks by our own kernels, end to end on the shim, beside ONNX Runtime in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.autoencoder_cases import CASES, arrays_of, make_autoencoder
from tests.export.test_gpu_autoencoder import FAULT, overflowing
from tests.runtime.gpu.shim_device import ShimDevice
from tests.runtime.gpu.small_networks import device_autoencoder, part_of
from tests.runtime.test_golden import golden_folder
from tests.tolerances import CUDA_NETWORKS_DB, CUDA_NETWORKS_UNEQUAL_CODES
from trt_vqgan.errors import BackendUnavailableError, BundleError
from trt_vqgan.export.autoencoder_graph import codebook_key
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.gpu_autoencoder import gpu_decoder_graph, gpu_encoder_graph
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.autoencoder import Autoencoder, from_uint8
from trt_vqgan.runtime.gpu.code_operations import CudaCodeOperations
from trt_vqgan.runtime.gpu.executors.cuda_networks import CudaNetworkExecutor, check_network_fits
from trt_vqgan.spec import AutoencoderSpec

BASE = CASES["base"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same VQGAN by our kernels, and by ONNX Runtime in float32."""

    ours: Autoencoder
    plain: Autoencoder
    device: ShimDevice


def open_pair(
    folder: Path, spec: AutoencoderSpec, weights: Any, *, wider: tuple[str, ...] = (), device: ShimDevice | None = None
) -> Pair:
    """Return both; ``wider`` as of the graphs."""
    paths: Any = {"encoder": folder / "half_encoder.onnx", "decoder": folder / "half_decoder.onnx"}
    paths["encoder"].write_bytes(gpu_encoder_graph(spec, weights, wider=wider).SerializeToString())
    paths["decoder"].write_bytes(gpu_decoder_graph(spec, weights, wider=wider).SerializeToString())
    device = device if device is not None else ShimDevice()
    codebook = np.asarray(weights[codebook_key(spec)], dtype=np.float32)
    ours = device_autoencoder(
        folder,
        spec,
        weights,
        device=device,
        executor=CudaNetworkExecutor(spec, paths, device),
        operations=CudaCodeOperations(device, codebook, searched=spec.quantizer != "gumbel"),
    )
    return Pair(ours, device_autoencoder(folder, spec, weights), device)


def random_maps(spec: AutoencoderSpec, *, height: int, width: int, batch: int = 1) -> np.ndarray:
    maps = np.random.default_rng(0).uniform(-1, 1, (batch, spec.in_channels, height, width))
    return maps.astype(np.float32)


def random_codes(spec: AutoencoderSpec, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, spec.codebook_size, shape)


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return dB of decoder output in [-1, 1]; -inf where it isn't finite."""
    if not np.isfinite(found).all():
        return -np.inf
    error = np.square(found.clip(-1, 1) - wanted.clip(-1, 1), dtype=np.float64).mean()
    return float(10 * np.log10(4 / error))


@pytest.mark.parametrize("case", [name for name in CASES if name != "f8"])
def test_codes_and_pictures(tmp_path: Path, case: str) -> None:
    spec = CASES[case]
    pair = open_pair(tmp_path, spec, arrays_of(make_autoencoder(spec)))
    maps = random_maps(spec, height=5 * spec.factor, width=3 * spec.factor, batch=2)
    np.testing.assert_array_equal(pair.ours.encode(maps), pair.plain.encode(maps), "no two codes are that near here")
    codes = random_codes(spec, 2, 3, 5)
    assert psnr(pair.ours.decode_pixels(codes[1]), pair.plain.decode_pixels(codes[1])) > CUDA_NETWORKS_DB
    assert np.abs(pair.ours.decode(codes).astype(int) - pair.plain.decode(codes)).max() <= 1
    pair.ours.close()


@pytest.mark.slow
def test_eight_pixels_a_code(tmp_path: Path) -> None:
    """Attention at two resolutions, a codebook of four channels."""
    spec = CASES["f8"]
    pair = open_pair(tmp_path, spec, arrays_of(make_autoencoder(spec)))
    codes = random_codes(spec, 1, 2, 3)
    assert psnr(pair.ours.decode_pixels(codes[0]), pair.plain.decode_pixels(codes[0])) > CUDA_NETWORKS_DB
    maps = random_maps(spec, height=16, width=24)
    np.testing.assert_array_equal(pair.ours.encode(maps), pair.plain.encode(maps))


def test_one_code_and_a_picture_of_a_batch(tmp_path: Path) -> None:
    """A grid of one code, and the same bits whatever stands beside a picture.

    Not any code: of two channels at one position, all that a group has, the norm magnifies a last bit a thousandfold
    where they are nearly equal.
    """
    pair = open_pair(tmp_path, BASE, arrays_of(make_autoencoder(BASE)))
    codes = np.zeros((1, 1, 1), np.int64)
    assert psnr(pair.ours.decode_pixels(codes[0]), pair.plain.decode_pixels(codes[0])) > CUDA_NETWORKS_DB
    batch = random_codes(BASE, 3, 2, 3)
    np.testing.assert_array_equal(pair.ours.decode(batch)[2], pair.ours.decode(batch[2:])[0])


def test_layers_that_half_cannot_hold(tmp_path: Path) -> None:
    """In half they make infinities; in float32, with attention among them, the pictures are right."""
    weights = overflowing(arrays_of(make_autoencoder(BASE)))
    codes = random_codes(BASE, 1, 3, 4)
    narrow = open_pair(tmp_path, BASE, weights)
    wanted = narrow.plain.decode_pixels(codes[0])
    assert psnr(narrow.ours.decode_pixels(codes[0]), wanted) < 0, "the fault must show"
    wider = open_pair(tmp_path, BASE, weights, wider=(FAULT, "decoder.mid.attn_1", "decoder.up.1.upsample"))
    assert psnr(wider.ours.decode_pixels(codes[0]), wanted) > CUDA_NETWORKS_DB
    assert {"conv2d_float", "picture_attention_float", "half_to_float", "float_to_half"} <= set(wider.device.launched)


def test_a_golden_picture(tmp_path: Path) -> None:
    """A real model's codes: of a corner of the picture, all but near ties."""
    run = golden_folder("class")
    checkpoint = open_checkpoint(run)
    spec, weights = checkpoint.spec.autoencoder, part_of(checkpoint.weights, "first_stage.")
    pair = open_pair(tmp_path, spec, weights)
    side = 4 * spec.factor
    image = from_uint8(np.load(run / "expected.npz")["image"][None, :side, :side])
    codes, wanted = pair.ours.encode(image), pair.plain.encode(image)
    assert (codes != wanted).sum() <= CUDA_NETWORKS_UNEQUAL_CODES
    assert psnr(pair.ours.decode_pixels(wanted[0]), pair.plain.decode_pixels(wanted[0])) > CUDA_NETWORKS_DB


def test_memory_goes_back(tmp_path: Path) -> None:
    """A value lives no longer than its last use: what is held at once is a few of the largest, not all."""
    device, held = ShimDevice(), []
    pair = open_pair(tmp_path, BASE, arrays_of(make_autoencoder(BASE)), device=device)
    codes = random_codes(BASE, 1, 8, 8)

    def measure() -> int:
        return sum(memory.nbytes for memory in device._alive if not memory.is_free)

    pair.ours.decode(codes)
    weights = measure()
    device.before_launch = lambda launch: held.append(measure() - weights)
    pair.ours.decode(codes)
    largest = 32 * 32 * 64 * 2  # behind the last upsampling, in half
    assert 2 * largest < max(held) < 4 * largest
    pair.ours.close()


class WithFault(ShimDevice):
    """Launches something a little else."""

    def launch(self, launch: Launch) -> None:
        if launch.kernel.startswith("group_norm_apply"):
            launch = dataclasses.replace(launch, arguments=(*launch.arguments[:-1], np.int32(0)))
        super().launch(launch)


def test_a_planted_fault_shows(tmp_path: Path) -> None:
    pair = open_pair(tmp_path, BASE, arrays_of(make_autoencoder(BASE)), device=WithFault())
    codes = random_codes(BASE, 1, 2, 2)
    assert psnr(pair.ours.decode_pixels(codes[0]), pair.plain.decode_pixels(codes[0])) < CUDA_NETWORKS_DB


def test_models_that_do_not_fit() -> None:
    check_network_fits(BASE)
    wide = dataclasses.replace(BASE, base_channels=320)
    with pytest.raises(BackendUnavailableError, match="attention of 640 channels, wanted at most 512"):
        check_network_fits(wide)
    check_network_fits(dataclasses.replace(wide, use_attention=False))
    with pytest.raises(BackendUnavailableError, match="has 2560 channels, wanted at most 2048"):
        check_network_fits(dataclasses.replace(wide, use_attention=False, base_channels=1280))


def test_weights_of_another_model(tmp_path: Path) -> None:
    weights = arrays_of(make_autoencoder(dataclasses.replace(BASE, z_channels=32)))
    pair = open_pair(tmp_path, dataclasses.replace(BASE, z_channels=32), weights)
    graphs: Any = {"decoder": tmp_path / "half_decoder.onnx"}
    executor = CudaNetworkExecutor(dataclasses.replace(BASE, code_dim=16), graphs, pair.device)
    latents = pair.device.allocate((1, 2, 2, 16), np.float16)
    planes = pair.device.allocate((1, 3, 8, 8), np.float16)
    with pytest.raises(BundleError, match="post_quant_conv: its weights take 24 channels, 16 come"):
        executor.run("decoder", latents, planes)
