"""Sequences that a model draws itself, which is what its reduced precisions are measured on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trt_vqgan.errors import ExportError
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.export.one_thread_workers import OneThreadWorkers
from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.export.vqgan_modules import load_autoencoder
from trt_vqgan.manifest import SamplingDefaults
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

OnCode = Callable[[int], None]

GROUPS = 2
"""Sequences are drawn in so many groups side by side, whatever the machine has, so that they are the same everywhere:
products of another number of rows may differ in the last bits."""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """What a model reads and what follows.

    Attributes
    ----------
    tokens : int64 (N, T), condition and codes as the model reads them.
    codes : int64 (N, n), the codes drawn; code i follows token ``first + i``.
    first : index of the last condition token.
    """

    tokens: torch.Tensor
    codes: torch.Tensor
    first: int


def draw_sequences(
    gpt: GPT,
    spec: ModelSpec,
    weights: Mapping[str, Any],
    *,
    count: int,
    sampling: SamplingDefaults,
    workers: OneThreadWorkers,
    on_code: OnCode = lambda done: None,
) -> Sequences:
    """Return sequences that ``gpt`` draws in float32, always the same ones.

    Parameters
    ----------
    gpt : the model of ``spec``.
    weights : of the checkpoint; those of the condition's own VQGAN are read here.
    count : sequences.
    sampling : how codes are drawn.
    workers : who draws.
    on_code : called with the codes that each sequence of the first group has.

    Raises
    ------
    ExportError : the model's conditions can't be made up.
    """
    assert spec.transformer is not None
    conditions = torch.from_numpy(_conditions(spec, weights, count))
    groups = list(enumerate(conditions.tensor_split(min(GROUPS, count))))

    def draw(group: tuple[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        number, rows = group
        with torch.inference_mode():
            return _draw_group(gpt, spec, rows, sampling, number, on_code if number == 0 else lambda done: None)

    tokens, codes = (torch.cat(parts) for parts in zip(*workers.map(draw, groups), strict=True))
    return Sequences(tokens, codes, conditions.shape[1] - 1)


def _draw_group(
    gpt: GPT, spec: ModelSpec, conditions: torch.Tensor, sampling: SamplingDefaults, seed: int, on_code: OnCode
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (n, T) and codes (n, N) of a group, of which ``conditions`` int64 (n, L) are given."""
    assert spec.transformer is not None
    random = torch.Generator().manual_seed(seed)
    first, vocab = conditions.shape[1] - 1, spec.autoencoder.codebook_size
    if spec.transformer.one_pass:  # the published sampler reads the condition's tokens in the codes' places
        tokens = torch.cat([conditions, conditions[:, : spec.num_codes - 1]], dim=1)
        drawn = [_draw(row, sampling, random) for row in gpt(tokens)[:, first:, :vocab].unbind(1)]
        return tokens, torch.cat(drawn, dim=1)
    codes = torch.empty(len(conditions), 0, dtype=torch.int64)
    shape = spec.transformer.num_heads, first + spec.num_codes, spec.transformer.head_size
    cache = torch.empty(spec.transformer.num_layers, 2, len(conditions), *shape)
    logits = _append(gpt, conditions, cache, 0)
    for done in range(spec.num_codes):
        code = _draw(logits[:, :vocab], sampling, random)
        codes = torch.cat([codes, code], dim=1)
        on_code(done + 1)
        if done + 1 < spec.num_codes:
            logits = _append(gpt, code, cache, first + 1 + done)
    return torch.cat([conditions, codes[:, :-1]], dim=1), codes


def _append(gpt: GPT, tokens: torch.Tensor, cache: torch.Tensor, start: int) -> torch.Tensor:
    """Write ``tokens`` (n, T) into ``cache`` (layers, 2, n, H, positions, D); return the last one's logits (n, V)."""
    end = start + tokens.shape[1]
    x = gpt.tok_emb(tokens) + gpt.pos_emb[:, start:end]
    for i, block in enumerate(gpt.blocks):
        x, present = block(x, cache[i, ..., :start, :] if start else None)
        cache[i, ..., start:end, :] = present
    logits: torch.Tensor = gpt.head(gpt.ln_f(x[:, -1]))
    return logits


def _draw(logits: torch.Tensor, sampling: SamplingDefaults, random: torch.Generator) -> torch.Tensor:
    """Return a code int64 (N, 1) for each row of logits (N, V)."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = torch.softmax(logits, dim=1)
    if sampling.top_p is not None:
        ordered, places = probabilities.sort(dim=1, descending=True)
        before = ordered.cumsum(dim=1) - ordered
        probabilities = torch.zeros_like(probabilities).scatter(1, places, ordered * (before < sampling.top_p))
    return torch.multinomial(probabilities, 1, generator=random)


def _conditions(spec: ModelSpec, weights: Mapping[str, Any], count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return condition tokens int64 (count, L): all that can be had without data."""
    condition, transformer = spec.condition, spec.transformer
    assert condition is not None
    assert transformer is not None
    if condition.kind == "unconditional":
        return np.full((count, 1), condition.sos_token, dtype=np.int64)
    if condition.kind == "class":
        order = np.random.default_rng(0).permutation(condition.num_classes)
        return np.resize(order, (count, 1)).astype(np.int64)
    if condition.kind == "coordinates":  # of a whole picture, as the published sampler has them
        places = (np.arange(condition.num_tokens) + 0.5) / condition.num_tokens
        tokens = np.minimum(np.rint(places * condition.coordinate_levels), transformer.vocab_size - 1)
        return np.tile(tokens.astype(np.int64), (count, 1))
    if condition.kind == "boxes":
        raise ExportError(
            "precision auto: the layouts of a scene model aren't known without data, so nothing can be measured; "
            "wanted one of fp32, int8, int4"
        )
    stage = spec.autoencoder if condition.autoencoder is None else condition.autoencoder
    prefix = "first_stage." if condition.autoencoder is None else "condition."
    encoder = load_autoencoder(stage, weights, prefix=prefix)
    maps = torch.from_numpy(_maps(stage, math.isqrt(condition.num_tokens) * stage.factor, count))
    with torch.inference_mode():
        codes: np.ndarray[Any, np.dtype[np.int64]] = encoder.encode_codes(maps).numpy().reshape(count, -1)
    return codes


def _maps(spec: AutoencoderSpec, side: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return smooth maps (count, C, side, side) that differ: one, turned over and moved."""
    whole = sample_map(spec, side)[0]
    flipped = [whole, whole[:, ::-1], whole[:, :, ::-1], whole[:, ::-1, ::-1]]
    return np.stack([np.roll(flipped[i % 4], (i // 4) * side // 8, axis=2) for i in range(count)])
