"""A VQGAN's networks on the driver's devices without a GPU: fp32 graphs through ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_vqgan.export.autoencoder_graph import codebook_key
from trt_vqgan.export.gpu_autoencoder import gpu_decoder_graph, gpu_encoder_graph
from trt_vqgan.export.prefixed import Prefixed
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.gpu.code_operations import CodeOperations, HostCodeOperations
from trt_vqgan.runtime.gpu.executors.networks import NetworkExecutor
from trt_vqgan.runtime.gpu.executors.onnx_networks import OnnxNetworkExecutor
from trt_vqgan.runtime.gpu.networks import DeviceNetworks
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.spec import AutoencoderSpec


def write_graphs(folder: Path, spec: AutoencoderSpec, weights: Mapping[str, Any]) -> dict[Any, Path]:
    """Write the fp32 graphs of a VQGAN and return them; weights under their published keys."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"encoder": folder / "encoder.onnx", "decoder": folder / "decoder.onnx"}
    paths["encoder"].write_bytes(gpu_encoder_graph(spec, weights, dtype="fp32").SerializeToString())
    if "decoder.conv_in.weight" in weights:
        paths["decoder"].write_bytes(gpu_decoder_graph(spec, weights, dtype="fp32").SerializeToString())
    return paths


def device_autoencoder(
    folder: Path,
    spec: AutoencoderSpec,
    weights: Mapping[str, Any],
    *,
    device: HostDevice | None = None,
    executor: NetworkExecutor | None = None,
    operations: CodeOperations | None = None,
) -> Autoencoder:
    """Return a VQGAN whose networks lie on a device, in fp32; by default on the host."""
    device = device if device is not None else HostDevice()
    codebook = np.asarray(weights[codebook_key(spec)], dtype=np.float32)
    if executor is None:
        executor = OnnxNetworkExecutor(spec, write_graphs(folder, spec, weights), device, number=np.float32, threads=2)
    if operations is None:
        operations = HostCodeOperations(device, codebook, number=executor.number)
    networks = DeviceNetworks(spec, DeviceTurns(device), executor=executor, operations=operations)
    return Autoencoder(spec, networks=networks, codebook=codebook)


def part_of(weights: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    """Return a checkpoint's weights of one VQGAN under their published keys."""
    return Prefixed(weights, prefix)
