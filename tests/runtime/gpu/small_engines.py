"""Small transformers on the driver: fp32 segments through ONNX Runtime on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.runtime.small_models import random_gpt
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.export.gpu_transformer import write_transformer
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.onnx import OnnxExecutor
from trt_vqgan.runtime.gpu.operations import HostOperations
from trt_vqgan.spec import TransformerSpec


@dataclasses.dataclass(frozen=True)
class DeviceModel:
    """A reference GPT and the driver over its segments."""

    spec: TransformerSpec
    reference: GPT
    engine: DeviceEngine

    def reference_logits(self, tokens: np.ndarray) -> np.ndarray:
        """Return the reference's logits float32 (B, T, V) of tokens int64 (B, T)."""
        with torch.no_grad():
            return self.reference(torch.from_numpy(tokens)).numpy()


def host_engine(folder: Path, spec: TransformerSpec, weights: Mapping[str, Any]) -> DeviceEngine:
    """Return the driver on the CPU of weights under ``transformer.`` + published key, in fp32."""
    _, segments = write_transformer(folder, spec, weights, dtype="fp32")
    device = HostDevice()
    tables = [np.asarray(weights[f"transformer.{key}"], dtype=np.float32) for key in ("tok_emb.weight", "pos_emb")]
    return DeviceEngine(
        spec,
        device,
        operations=HostOperations(device, tables[0], tables[1].reshape(-1, spec.hidden_size)),
        executor=OnnxExecutor(segments, device, threads=1),
        number=np.float32,
    )


def make_device_model(folder: Path, *, seed: int = 0, **sizes: int) -> DeviceModel:
    """Return a random GPT, the same as `tests.runtime.small_models.make_model` makes, on the driver."""
    defaults = {"vocab_size": 61, "max_seq_len": 200, "num_layers": 2, "num_heads": 2, "hidden_size": 64}
    spec = TransformerSpec(**(defaults | sizes))
    reference = random_gpt(spec, seed)
    weights = {f"transformer.{key}": value.detach().numpy() for key, value in reference.state_dict().items()}
    return DeviceModel(spec, reference, host_engine(folder, spec, weights))
