"""The published sampling loop, kept plain: the whole sequence through PyTorch for every code."""

from __future__ import annotations

import numpy as np
import torch

from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.spec import ModelSpec


def plain_greedy(spec: ModelSpec, gpt: GPT, condition: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return greedy codes int64 (h·w,), raster order, for one condition int64 (L,) and leading codes in model order.

    One-pass models see the condition's own tokens, shifted by one, in the places of the codes that are to come.
    """
    count, size = spec.num_codes, spec.autoencoder.codebook_size
    codes = list(kept)
    with torch.no_grad():
        if spec.transformer is not None and spec.transformer.one_pass:
            tokens = [*condition, *codes, *condition[len(codes) : -1]]
            logits = gpt(torch.tensor([tokens]))[0, len(condition) - 1 :, :size]
            codes += logits.argmax(1)[len(codes) :].tolist()
        while len(codes) < count:
            logits = gpt(torch.tensor([[*condition, *codes]]))[0, -1, :size]
            codes.append(int(logits.argmax()))
    raster = np.empty(count, dtype=np.int64)
    order = spec.permutation if spec.permutation is not None else range(count)
    raster[np.asarray(order)] = codes
    return raster
