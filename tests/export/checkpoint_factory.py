"""Small checkpoints with random weights in the published layouts, of every kind that the package reads.

Everything is tiny: GroupNorm(32) wants widths that are multiples of 32, so that is the width; pictures are 32x32 and
a code stands for 4x4 pixels unless a test says otherwise, which gives 64 codes.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from trt_vqgan.export.key_shapes import autoencoder_shapes, transformer_shapes
from trt_vqgan.spec import AutoencoderSpec, TransformerSpec

FIRST_STAGE_TARGETS = {
    "vq": "taming.models.vqgan.VQModel",
    "segmentation_vq": "taming.models.vqgan.VQSegmentationModel",
    "nodisc": "taming.models.vqgan.VQNoDiscModel",
    "gumbel": "taming.models.vqgan.GumbelVQ",
    "ema": "taming.models.vqgan.EMAVQ",
    "ldm": "ldm.models.autoencoder.VQModel",
    "ldm_interface": "ldm.models.autoencoder.VQModelInterface",
}
MODEL_KINDS = ("unconditional", "class", "depth", "segmentation", "first_stage", "coord", "boxes")
KINDS = (*FIRST_STAGE_TARGETS, *MODEL_KINDS)
LAYOUTS = ("project", "model", "beside", "safetensors", "legacy")
PERMUTERS = ("Subsample", "ZCurve", "SpiralOut", "SpiralIn", "AlternateParsing", "Random")

_DDCONFIG = {
    "double_z": False,
    "z_channels": 32,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
_BOX_TOKENS = 12

State = dict[str, torch.Tensor]


def make_checkpoint(
    folder: Path,
    *,
    kind: str,
    layout: str = "project",
    seed: int = 0,
    first_stage: Mapping[str, Any] | None = None,
    condition: Mapping[str, Any] | None = None,
    transformer: Mapping[str, Any] | None = None,
    permuter: str | None = None,
    params: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    training_state: bool = True,
) -> Path:
    """Write a random checkpoint into ``folder`` and return ``folder``, which `open_checkpoint` takes.

    Parameters
    ----------
    kind : one of `KINDS`: a first stage alone, or a model with a transformer named after its condition.
    layout : one of `LAYOUTS`; "legacy" is "project" with the container of torch before 1.6.
    first_stage, condition : overrides for a VQGAN: ``kind`` (a key of `FIRST_STAGE_TARGETS`), keys of ``ddconfig``,
        ``embed_dim``, ``n_embed``, ``target``, other ``params``, and, for the weights, ``used`` (rows of a remapped
        codebook) and ``conv_shortcut``.
    transformer : overrides for the GPT's ``params``.
    permuter : one of `PERMUTERS`; a random order is stored for it.
    params : overrides for the ``params`` of the model with a transformer, such as ``pkeep``.
    training_state : also write ``loss.*``, optimizer state and callbacks keyed by a class of pytorch_lightning.
    """
    config, state = make_state(
        kind=kind,
        seed=seed,
        first_stage=first_stage,
        condition=condition,
        transformer=transformer,
        permuter=permuter,
        params=params,
        training_state=training_state,
    )
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    write_checkpoint(folder, config=config, state=state, layout=layout, training_state=training_state)
    return folder


def make_state(
    *,
    kind: str,
    seed: int = 0,
    first_stage: Mapping[str, Any] | None = None,
    condition: Mapping[str, Any] | None = None,
    transformer: Mapping[str, Any] | None = None,
    permuter: str | None = None,
    params: Mapping[str, Any] | None = None,
    training_state: bool = True,
) -> tuple[dict[str, Any], State]:
    """Return config and state dict of `make_checkpoint`, unwritten."""
    rng = np.random.default_rng(seed)
    if kind in FIRST_STAGE_TARGETS:
        section, spec, state = _autoencoder(rng, kind, first_stage or {}, training_state)
        return {"model": {"base_learning_rate": 4.5e-6, **section}}, state
    first_section, first_spec, first_state = _autoencoder(rng, "vq", first_stage or {}, training_state)
    state = {f"first_stage_model.{key}": value for key, value in first_state.items()}
    model: dict[str, Any] = {"cond_stage_key": "image", "first_stage_config": first_section, **(params or {})}
    tokens = 1
    side = max(model.get("downsample_cond_size", -1), 0) or first_spec.resolution
    if kind == "unconditional":
        model["unconditional"] = True
        model["cond_stage_config"] = "__is_unconditional__"
    elif kind == "class":
        model["cond_stage_key"] = "class_label"
        model["cond_stage_config"] = {"target": "taming.modules.util.Labelator", "params": {"n_classes": 5}}
    elif kind == "coord":
        model["cond_stage_key"] = "coord"
        model["cond_stage_config"] = {
            "target": "taming.modules.misc.coord.CoordStage",
            "params": {"n_embed": 40, "down_factor": 4},
        }
        tokens = (side // 4) ** 2
    elif kind == "boxes":
        model["cond_stage_key"] = key = (params or {}).get("cond_stage_key", "objects_bbox")
        model["cond_stage_config"] = {
            "target": "taming.models.dummy_cond_stage.DummyCondStage",
            "params": {"conditional_key": key},
        }
        tokens = _BOX_TOKENS
    elif kind == "first_stage":
        model["cond_stage_config"] = "__is_first_stage__"
        state.update({f"cond_stage_model.{key}": value for key, value in first_state.items()})
        tokens = (side // first_spec.factor) ** 2
    else:
        channels = {"depth": 1, "segmentation": 7}[kind]
        model["cond_stage_key"] = kind
        overrides = {"in_channels": channels, "out_ch": channels, **(condition or {})}
        section, spec, own_state = _autoencoder(rng, "vq", overrides, training_state)
        model["cond_stage_config"] = section
        state.update({f"cond_stage_model.{key}": value for key, value in own_state.items()})
        tokens = (side // spec.factor) ** 2
    codes = first_spec.latent_size**2
    gpt = {"vocab_size": 64, "block_size": tokens + codes, "n_layer": 2, "n_head": 2, "n_embd": 32}
    gpt.update(transformer or {})
    model["transformer_config"] = {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt}
    state.update({f"transformer.{key}": value for key, value in _transformer(rng, gpt).items()})
    if permuter is not None:
        target = f"taming.modules.transformer.permuter.{permuter}"
        model["permuter_config"] = {
            "target": target,
            "params": {"H": first_spec.latent_size, "W": first_spec.latent_size},
        }
        order = torch.from_numpy(rng.permutation(codes))
        state["permuter.forward_shuffle_idx"] = order
        state["permuter.backward_shuffle_idx"] = torch.argsort(order)
    return {"model": {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": model}}, state


def write_checkpoint(
    folder: Path,
    *,
    config: Mapping[str, Any],
    state: State,
    layout: str = "project",
    training_state: bool = False,
) -> None:
    """Write a config and a state dict in one of the `LAYOUTS`."""
    configs, checkpoints = folder, folder
    if layout in ("project", "model", "legacy"):
        configs, checkpoints = folder / "configs", folder / "checkpoints"
    configs.mkdir(parents=True, exist_ok=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(config))
    if layout in ("project", "legacy"):
        (configs / "2020-11-09T13-31-51-project.yaml").write_text(text)
        (configs / "2020-11-09T13-31-51-lightning.yaml").write_text("lightning: {trainer: {gpus: '0,'}}\n")
    else:
        (configs / ("model.yaml" if layout == "model" else "config.yaml")).write_text(text)
    if layout == "safetensors":
        unshared = {key: value.clone().contiguous() for key, value in state.items()}
        save_file(unshared, checkpoints / "model.safetensors")
        return
    with _lightning_class() as model_checkpoint:
        content: dict[str, Any] = {"epoch": 3, "global_step": 1000, "state_dict": state}
        if training_state:
            content["pytorch-lightning_version"] = "1.0.8"
            content["callbacks"] = {model_checkpoint: {"best_model_score": torch.tensor(1.0)}}
            content["optimizer_states"] = [{"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": [{"lr": 1e-4}]}]
        torch.save(
            content,
            checkpoints / ("model.ckpt" if layout == "beside" else "last.ckpt"),
            _use_new_zipfile_serialization=layout != "legacy",
        )


@contextmanager
def _lightning_class() -> Iterator[type]:
    """Give a class that pickles as one of pytorch_lightning, which isn't installed."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    stand_in = type("ModelCheckpoint", (), {"__module__": name})
    modules = {part: types.ModuleType(part) for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name)}
    modules[name].ModelCheckpoint = stand_in  # type: ignore[attr-defined]
    before = {part: sys.modules.get(part) for part in modules}
    sys.modules.update(modules)
    try:
        yield stand_in
    finally:
        for part, module in before.items():
            if module is None:
                del sys.modules[part]
            else:
                sys.modules[part] = module


def _autoencoder(
    rng: np.random.Generator, kind: str, overrides: Mapping[str, Any], training_state: bool
) -> tuple[dict[str, Any], AutoencoderSpec, State]:
    """Return the config section, the spec with the full codebook, and the weights of one VQGAN."""
    rest = dict(overrides)
    kind = rest.pop("kind", kind)
    used = rest.pop("used", None)
    conv_shortcut = rest.pop("conv_shortcut", False)
    target = rest.pop("target", FIRST_STAGE_TARGETS[kind])
    channels = {"in_channels": 7, "out_ch": 7} if kind == "segmentation_vq" else {}
    net_names = (*_DDCONFIG, "resamp_with_conv", "attn_type", "tanh_out", "use_linear_attn")
    net = {**_DDCONFIG, **channels, **{name: rest.pop(name) for name in net_names if name in rest}}
    params: dict[str, Any] = {"embed_dim": net["z_channels"], "n_embed": 48}
    params["lossconfig"] = {"target": "taming.modules.losses.DummyLoss"}
    if kind == "gumbel":
        params["kl_weight"] = 1e-8
        params["temperature_scheduler_config"] = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler"}
    if kind == "segmentation_vq":
        params["n_labels"] = 7
        params["image_key"] = "segmentation"
    params.update(rest)
    params["ddconfig"] = net
    spec = AutoencoderSpec(
        quantizer="gumbel" if kind == "gumbel" else "nearest",
        in_channels=net["in_channels"],
        out_channels=net["out_ch"],
        base_channels=net["ch"],
        channel_multipliers=tuple(net["ch_mult"]),
        num_res_blocks=net["num_res_blocks"],
        attention_resolutions=tuple(net["attn_resolutions"]),
        resolution=net["resolution"],
        z_channels=net["z_channels"],
        code_dim=params["embed_dim"],
        codebook_size=params["n_embed"],
        resample_with_conv=net.get("resamp_with_conv", True),
        conv_shortcut=conv_shortcut,
        use_attention=net.get("attn_type", "vanilla") == "vanilla",
    )
    state = {key: _random(rng, key, shape) for key, shape in autoencoder_shapes(spec).items()}
    if kind == "ema":
        state["quantize.embedding.cluster_size"] = torch.ones(spec.codebook_size)
        state["quantize.embedding.embed_avg"] = state["quantize.embedding.weight"].clone()
    if kind == "segmentation_vq":
        state["colorize"] = torch.randn(3, 7, 1, 1)
    if training_state:
        state["loss.discriminator.main.0.weight"] = torch.zeros(4, 3, 4, 4)
        if kind.startswith("ldm"):
            state["model_ema.decay"] = torch.tensor(0.9999)
            state["model_ema.encoderconv_inweight"] = torch.zeros(32, 3, 3, 3)
    if used is not None:
        params["remap"] = "/no/such/folder/used.npy"
        state["quantize.used"] = torch.tensor(used, dtype=torch.int64)
    return {"target": target, "params": params}, spec, state


def _transformer(rng: np.random.Generator, gpt: Mapping[str, Any]) -> State:
    spec = TransformerSpec(
        vocab_size=gpt["vocab_size"],
        max_seq_len=gpt["block_size"],
        num_layers=gpt["n_layer"],
        num_heads=gpt["n_head"],
        hidden_size=gpt["n_embd"],
    )
    state = {key: _random(rng, key, shape) for key, shape in transformer_shapes(spec).items()}
    mask = torch.tril(torch.ones(spec.max_seq_len, spec.max_seq_len))
    unmasked = gpt.get("n_unmasked", 0)
    mask[:unmasked, :unmasked] = 1
    for layer in range(spec.num_layers):
        state[f"blocks.{layer}.attn.mask"] = mask[None, None].clone()
    return state


def _random(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return weights under which activations keep a scale near one, so that codes and logits differ from each other."""
    values = rng.standard_normal(shape, dtype=np.float32)
    name = key.rsplit(".", 2)[-2] if "." in key else key
    if key.endswith(".bias"):
        values *= 0.1
    elif name.startswith(("norm", "ln")):
        values = 1 + 0.1 * values
    elif key == "pos_emb":
        values *= 0.5
    elif key == "head.weight":
        values *= 3 / math.sqrt(shape[-1])
    elif name not in ("embedding", "embed", "tok_emb"):
        values /= math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values)
