"""Pictures encoded and decoded on the GPU, beside what the published code computed in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.gpu_check.golden_pictures import GoldenPictures, read_pictures
from trt_vqgan.benchmarks.gpu_check.open_gpu import open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.runtime.autoencoder import Autoencoder, from_uint8
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.code_operations import CudaCodeOperations
from trt_vqgan.runtime.gpu.executors.cuda_networks import CudaNetworkExecutor
from trt_vqgan.runtime.gpu.networks import DeviceNetworks
from trt_vqgan.runtime.gpu.turns import DeviceTurns

UNEQUAL_CODES = 0.02
"""Share of codes that may be others than float32's: near ties."""

LEAST_DB = 40.0
"""PSNR of a picture of the same codes as bytes, where truncation alone leaves some 51 dB."""


def run(records: Records, settings: Settings) -> None:
    """Check each golden VQGAN that was carried here."""
    found = False
    for golden in read_pictures(Path(settings.goldens)):
        found = True
        with records.part(f"pictures {golden.name}"), open_gpu(settings.gpu) as device:
            check_pictures(records, golden, device)
    if not found:
        records.skip(
            "pictures", f"{settings.goldens} has none; --prepare writes them where torch and onnx are installed"
        )


def check_pictures(records: Records, golden: GoldenPictures, device: Device) -> None:
    """Compare codes and a picture, alone and in a batch, by our own kernels."""
    networks = DeviceNetworks(
        golden.spec,
        DeviceTurns(device),
        executor=CudaNetworkExecutor(golden.spec, golden.graphs, device),
        operations=CudaCodeOperations(device, golden.codebook, searched=golden.spec.quantizer != "gumbel"),
    )
    autoencoder = Autoencoder(golden.spec, networks=networks, codebook=golden.codebook)
    maps = from_uint8(golden.image[None])

    def codes_agree() -> str:
        codes = autoencoder.encode(maps).reshape(-1)
        unequal = int((codes != golden.codes.reshape(-1)).sum())
        assert unequal <= UNEQUAL_CODES * codes.size, f"{unequal} of {codes.size} codes differ"
        return f"{unequal} of {codes.size} codes differ"

    def picture_agrees() -> str:
        grid = golden.codes.reshape(1, golden.image.shape[0] // golden.spec.factor, -1)
        found = autoencoder.decode(grid)
        error = float(np.square(found.astype(np.float64) - golden.reconstruction).mean())
        decibel = 10 * np.log10(255**2 / max(error, 1e-9))
        assert decibel >= LEAST_DB, f"{decibel:.1f} dB, wanted {LEAST_DB}"
        return f"{decibel:.1f} dB"

    def batch_agrees() -> str:
        grid = golden.codes.reshape(1, golden.image.shape[0] // golden.spec.factor, -1)
        batch = np.concatenate([grid[:, ::-1], grid, grid[:, :, ::-1]])
        np.testing.assert_array_equal(autoencoder.decode(batch)[1], autoencoder.decode(grid)[0])
        return "equal"

    records.verify(f"pictures {golden.name}: codes", codes_agree)
    records.verify(f"pictures {golden.name}: reconstruction", picture_agrees)
    records.verify(f"pictures {golden.name}: the same bits in a batch", batch_agrees)
    autoencoder.close()
