"""The reference that everything is compared with: PyTorch's modules, run as the published code runs them.

Settings are torch's defaults, in float32 and without compilation, on as many threads as the runtime gets. The cache is
concatenated anew in each step, as published: once over all layers and once in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trt_vqgan.export.gpt_modules import GPT, load_gpt
from trt_vqgan.export.vqgan_modules import Autoencoder, GumbelQuantizer, load_autoencoder
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class TorchReference:
    """The modules of one model, each made when it is first used.

    Parameters
    ----------
    spec : the model.
    weights : by canonical key.
    own_weights : whether they are those of what is measured; without that only times can be compared.
    threads : torch's threads, for the whole process.
    """

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Any], *, own_weights: bool, threads: int) -> None:
        self.spec, self.own_weights = spec, own_weights
        self._weights = weights
        self._gpt: GPT | None = None
        self._autoencoder: Autoencoder | None = None
        torch.set_num_threads(threads)

    @property
    def gpt(self) -> GPT:
        """The transformer."""
        if self._gpt is None:
            assert self.spec.transformer is not None
            self._gpt = load_gpt(self.spec.transformer, self._weights)
        return self._gpt

    @property
    def autoencoder(self) -> Autoencoder:
        """The VQGAN."""
        if self._autoencoder is None:
            self._autoencoder = load_autoencoder(self.spec.autoencoder, self._weights, prefix="first_stage.")
        return self._autoencoder

    @torch.no_grad()
    def prefill(self, tokens: Int64Array) -> FloatArray:
        """Return logits float32 (B, T, V) of tokens int64 (B, T)."""
        logits: FloatArray = self.gpt(torch.from_numpy(tokens)).numpy()
        return logits

    @torch.no_grad()
    def encode(self, picture: FloatArray) -> Int64Array:
        """Return codes int64 (B, h, w) of pictures float32 (B, C, H, W), chosen as published: by squared distance."""
        latents = self.autoencoder.encode_latents(torch.from_numpy(picture))
        if isinstance(self.autoencoder.quantize, GumbelQuantizer):
            return np.asarray(latents.argmax(dim=1).numpy(), dtype=np.int64)
        codebook: torch.Tensor = self.autoencoder.quantize.codebook
        rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        distances = (rows**2).sum(1, keepdim=True) + (codebook**2).sum(1) - 2 * rows @ codebook.t()
        chosen = distances.argmin(dim=1).reshape(len(latents), *latents.shape[2:])
        return np.asarray(chosen.numpy(), dtype=np.int64)

    @torch.no_grad()
    def decode(self, codes: Int64Array) -> ImageArray:
        """Return pictures uint8 (B, H, W, C) of codes int64 (B, h, w)."""
        pixels = self.autoencoder.decode_codes(torch.from_numpy(codes))
        levels = ((pixels + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        return np.asarray(levels.permute(0, 2, 3, 1).contiguous().numpy(), dtype=np.uint8)


class TorchSteps:
    """Decode steps of the reference, as `trt_vqgan.benchmarks.decode_steps.StepRunner` wants them."""

    def __init__(self, reference: TorchReference) -> None:
        self._gpt = reference.gpt
        self._past: list[torch.Tensor] | None = None

    @torch.no_grad()
    def start(self, prefix: Int64Array) -> None:
        """Begin with a cache that holds ``prefix`` int64 (B, L)."""
        _, self._past = self._gpt.forward_with_past(torch.from_numpy(prefix), None)

    @torch.no_grad()
    def step(self, tokens: Int64Array, position: int) -> FloatArray:
        """Append ``tokens`` int64 (B,) and return logits float32 (B, V)."""
        logits, self._past = self._gpt.forward_with_past(torch.from_numpy(tokens)[:, None], self._past)
        return np.asarray(logits[:, 0].numpy(), dtype=np.float32)
