"""Checkpoints in the published folder layout: `configs/*-project.yaml` and `checkpoints/last.ckpt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from trt_vqgan.spec import AutoencoderSpec, TransformerSpec


def autoencoder_config(spec: AutoencoderSpec) -> dict[str, Any]:
    """Return a published VQModel config."""
    return {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": spec.code_dim,
            "n_embed": spec.codebook_size,
            "ddconfig": {
                "double_z": False,
                "z_channels": spec.z_channels,
                "resolution": spec.resolution,
                "in_channels": spec.in_channels,
                "out_ch": spec.out_channels,
                "ch": spec.base_channels,
                "ch_mult": list(spec.channel_multipliers),
                "num_res_blocks": spec.num_res_blocks,
                "attn_resolutions": list(spec.attention_resolutions),
                "dropout": 0.0,
            },
            "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
        },
    }


def transformer_config(
    transformer: TransformerSpec, first_stage: AutoencoderSpec, *, condition_key: str, condition: dict[str, Any]
) -> dict[str, Any]:
    """Return a published Net2NetTransformer config; `condition` is the cond_stage_config."""
    return {
        "base_learning_rate": 4.5e-06,
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "cond_stage_key": condition_key,
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": {
                    "vocab_size": transformer.vocab_size,
                    "block_size": transformer.max_seq_len,
                    "n_layer": transformer.num_layers,
                    "n_head": transformer.num_heads,
                    "n_embd": transformer.hidden_size,
                    "n_unmasked": transformer.num_unmasked,
                    "embd_pdrop": 0.0,
                    "resid_pdrop": 0.0,
                    "attn_pdrop": 0.0,
                },
            },
            "first_stage_config": autoencoder_config(first_stage),
            "cond_stage_config": condition,
        },
    }


def class_condition(num_classes: int) -> dict[str, Any]:
    """Return the cond_stage_config of a class model."""
    return {"target": "taming.modules.util.Labelator", "params": {"n_classes": num_classes}}


def write_checkpoint(
    folder: Path, name: str, config: dict[str, Any], weights: Mapping[str, torch.Tensor], *, step: int
) -> None:
    """Write a checkpoint folder; `weights` have their published keys."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "configs" / f"{name}-project.yaml").write_text(yaml.safe_dump({"model": config}, sort_keys=False))
    state = {"state_dict": {k: v.contiguous().clone() for k, v in weights.items()}, "epoch": 0, "global_step": step}
    partial = folder / "checkpoints" / "last.ckpt.partial"
    torch.save(state, partial)
    partial.replace(folder / "checkpoints" / "last.ckpt")


def read_weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint folder's weights whose keys start with `prefix`, without it; KeyError if there are none."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise KeyError(f"{folder}: no key starts with {prefix!r}")
    return found
