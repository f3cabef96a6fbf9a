"""Opening checkpoints: every kind, every layout, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")
pytest.importorskip("safetensors")

from tests.export.checkpoint_factory import (
    FIRST_STAGE_TARGETS,
    KINDS,
    LAYOUTS,
    PERMUTERS,
    make_checkpoint,
    make_state,
    write_checkpoint,
)
from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.checkpoint import Checkpoint, open_checkpoint
from trt_vqgan.export.key_shapes import expected_shapes

GOLDEN_KINDS = {
    "unconditional": "unconditional",
    "class": "class",
    "depth": "autoencoder",
    "segmentation": "autoencoder",
    "coord": "coordinates",
    "scene": "boxes",
}


def change_config(folder: Path, change: Any) -> None:
    """Rewrite a checkpoint's YAML after ``change`` has edited the loaded dict."""
    path = next(file for file in folder.rglob("*.yaml") if "lightning" not in file.name)
    config = yaml.safe_load(path.read_text())
    change(config["model"])
    path.write_text(yaml.safe_dump(config))


def check_complete(checkpoint: Checkpoint) -> None:
    """The weights are exactly those of the spec, float32 and finite."""
    shapes = expected_shapes(checkpoint.spec)
    assert set(checkpoint.weights) == set(shapes)
    for key, value in checkpoint.weights.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        assert value.shape == shapes[key] == checkpoint.weights.shape(key)
        assert np.isfinite(value).all()


# Golden checkpoints


@pytest.mark.parametrize("name", GOLDEN_KINDS)
def test_golden_models(shared_dir: Path, name: str) -> None:
    checkpoint = open_checkpoint(shared_dir / "golden" / name)
    spec = checkpoint.spec
    assert spec.transformer is not None
    assert spec.condition is not None
    assert spec.condition.kind == GOLDEN_KINDS[name]
    assert spec.num_codes == 256
    assert spec.transformer.max_seq_len == {"unconditional": 256, "class": 256, "scene": 348}.get(name, 512)
    assert spec.condition.num_tokens == {"unconditional": 1, "class": 1, "scene": 92}.get(name, 256)
    assert spec.condition.modality == {"depth": "depth", "segmentation": "segmentation"}.get(name)
    assert (spec.transformer.num_layers, spec.transformer.num_heads, spec.transformer.hidden_size) == (3, 4, 64)
    assert "optimizer_states" in checkpoint.ignored
    check_complete(checkpoint)


def test_golden_gumbel(shared_dir: Path) -> None:
    checkpoint = open_checkpoint(shared_dir / "golden" / "gumbel_f8")
    assert checkpoint.spec.autoencoder.quantizer == "gumbel"
    assert checkpoint.spec.autoencoder.factor == 8
    assert checkpoint.spec.transformer is None
    assert "loss.*" in checkpoint.ignored
    check_complete(checkpoint)


def test_trained_landscapes(shared_dir: Path) -> None:
    checkpoint = open_checkpoint(shared_dir / "checkpoints" / "landscape_class")
    assert checkpoint.spec.condition is not None
    assert checkpoint.spec.condition.num_classes == 5
    assert checkpoint.spec.autoencoder.codebook_size == 1024
    check_complete(checkpoint)


def test_golden_values_equal_torch(shared_dir: Path) -> None:
    folder = shared_dir / "checkpoints" / "landscape_class"
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = open_checkpoint(folder).weights
    for key in weights:
        np.testing.assert_array_equal(weights[key], state[key.replace("first_stage.", "first_stage_model.")].numpy())


# Synthetic checkpoints


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(tmp_path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, kind=kind))
    spec = checkpoint.spec
    check_complete(checkpoint)
    if kind in FIRST_STAGE_TARGETS:
        assert spec.condition is None
        assert spec.autoencoder.quantizer == ("gumbel" if kind == "gumbel" else "nearest")
        assert spec.autoencoder.modality == ("segmentation" if kind == "segmentation_vq" else "image")
    else:
        assert spec.condition is not None
        wanted = {"depth": "autoencoder", "segmentation": "autoencoder", "first_stage": "autoencoder"}
        assert spec.condition.kind == {**wanted, "coord": "coordinates"}.get(kind, kind)
        assert spec.condition.shares_first_stage == (kind == "first_stage")
        assert not any(key.startswith("condition.") for key in checkpoint.weights) or kind in ("depth", "segmentation")
    assert any("loss.*" in pattern for pattern in checkpoint.ignored)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same_values(tmp_path: Path, layout: str) -> None:
    folder = make_checkpoint(tmp_path, kind="first_stage", layout=layout, seed=3)
    _, state = make_state(kind="first_stage", seed=3)
    weights = open_checkpoint(folder).weights
    for key in weights:
        np.testing.assert_array_equal(weights[key], state[key.replace("first_stage.", "first_stage_model.")].numpy())


@pytest.mark.parametrize("layout", ["project", "safetensors", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_element_types(tmp_path: Path, layout: str, dtype: Any) -> None:
    folder = make_checkpoint(tmp_path, kind="class", layout=layout, dtype=dtype)
    _, state = make_state(kind="class")
    checkpoint = open_checkpoint(folder)
    for key in checkpoint.weights:
        wanted = state[key.replace("first_stage.", "first_stage_model.")].to(dtype).float().numpy()
        np.testing.assert_array_equal(checkpoint.weights[key], wanted)


def test_views_and_transposed_tensors(tmp_path: Path) -> None:
    config, state = make_state(kind="vq")
    big = torch.randn(100, 48)
    state["quantize.embedding.weight"] = big[7:55, 3:35]
    state["encoder.norm_out.weight"] = big[:64, 5]
    state["quant_conv.weight"] = torch.randn(1, 1, 32, 32).permute(3, 2, 0, 1)
    for layout in ("project", "legacy"):
        write_checkpoint(tmp_path / layout, config=config, state=state, layout=layout)
        weights = open_checkpoint(tmp_path / layout).weights
        for key in ("quantize.embedding.weight", "encoder.norm_out.weight", "quant_conv.weight"):
            np.testing.assert_array_equal(weights[f"first_stage.{key}"], state[key].numpy())


def test_bare_state_dict_and_parameters(tmp_path: Path) -> None:
    config, state = make_state(kind="vq", training_state=False)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({key: torch.nn.Parameter(value) for key, value in state.items()}, tmp_path / "model.ckpt")
    check_complete(open_checkpoint(tmp_path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    config, state = make_state(kind="gumbel")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"state_dict": state, "odd": {(1, 2): {3, 4}}}, tmp_path / "model.ckpt", pickle_protocol=protocol)
    checkpoint = open_checkpoint(tmp_path)
    check_complete(checkpoint)
    assert "odd" in checkpoint.ignored


@pytest.mark.parametrize("name", PERMUTERS)
def test_permuters(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path, kind="unconditional", permuter=name)
    _, state = make_state(kind="unconditional", permuter=name)
    assert open_checkpoint(folder).spec.permutation == tuple(state["permuter.forward_shuffle_idx"].tolist())


def test_variants_of_the_transformer(tmp_path: Path) -> None:
    size = {"n_unmasked": 64, "n_head": 4, "n_embd": 416, "n_layer": 1}
    folder = make_checkpoint(tmp_path, kind="depth", transformer=size, params={"pkeep": 0.0})
    transformer = open_checkpoint(folder).spec.transformer
    assert transformer is not None
    assert transformer.one_pass
    assert (transformer.num_unmasked, transformer.head_size) == (64, 104)


@pytest.mark.parametrize("value", ["1e-1", 0.5, 1])
def test_pkeep_above_zero_is_not_one_pass(tmp_path: Path, value: object) -> None:
    transformer = open_checkpoint(make_checkpoint(tmp_path, kind="class", params={"pkeep": value})).spec.transformer
    assert transformer is not None
    assert not transformer.one_pass


def test_start_token(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, kind="unconditional", params={"sos_token": 17})
    change_config(folder, lambda model: model["params"].pop("cond_stage_config"))
    condition = open_checkpoint(folder).spec.condition
    assert condition is not None
    assert (condition.kind, condition.sos_token, condition.num_tokens) == ("unconditional", 17, 1)
    change_config(folder, lambda model: model["params"].update(sos_token=64))
    with pytest.raises(CheckpointError, match="start token is 64"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["depth", "coord", "first_stage"])
def test_downsampled_condition(tmp_path: Path, kind: str) -> None:
    condition = open_checkpoint(
        make_checkpoint(tmp_path, kind=kind, params={"downsample_cond_size": 16})
    ).spec.condition
    assert condition is not None
    assert (condition.num_tokens, condition.downsample_size) == (16, 16)


def test_variants_of_the_autoencoder(tmp_path: Path) -> None:
    plain = {"ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [], "z_channels": 4, "embed_dim": 3}
    spec = open_checkpoint(
        make_checkpoint(tmp_path / "a", kind="vq", first_stage={**plain, "resamp_with_conv": False})
    ).spec.autoencoder
    assert (spec.factor, spec.code_dim, spec.resample_with_conv, spec.conv_shortcut) == (2, 3, False, False)
    spec = open_checkpoint(
        make_checkpoint(tmp_path / "b", kind="vq", first_stage={"conv_shortcut": True})
    ).spec.autoencoder
    assert spec.conv_shortcut
    spec = open_checkpoint(
        make_checkpoint(tmp_path / "c", kind="ldm", first_stage={"attn_type": "none", "tanh_out": False})
    ).spec.autoencoder
    assert not spec.use_attention


@pytest.mark.parametrize("kind", ["vq", "gumbel", "ema", "ldm"])
def test_remapped_codebook_is_folded(tmp_path: Path, kind: str) -> None:
    used = [40, 3, 3, 17, 0]
    folder = make_checkpoint(tmp_path, kind=kind, first_stage={"used": used})
    _, state = make_state(kind=kind, first_stage={"used": used})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.spec.autoencoder.codebook_size == len(used)
    names = ["quantize.embedding.weight"]
    if kind == "gumbel":
        names = ["quantize.embed.weight", "quantize.proj.weight", "quantize.proj.bias"]
    for name in names:
        np.testing.assert_array_equal(checkpoint.weights[f"first_stage.{name}"], state[name].numpy()[used])


@pytest.mark.parametrize("kind", ["gumbel", "ema"])
def test_other_first_stages_of_a_model(tmp_path: Path, kind: str) -> None:
    folder = make_checkpoint(tmp_path, kind="depth", first_stage={"kind": kind}, condition={"kind": kind})
    checkpoint = open_checkpoint(folder)
    check_complete(checkpoint)
    assert checkpoint.spec.autoencoder.quantizer == ("gumbel" if kind == "gumbel" else "nearest")


def test_remapped_stages_of_a_model(tmp_path: Path) -> None:
    folder = make_checkpoint(
        tmp_path,
        kind="segmentation",
        first_stage={"n_embed": 1000, "used": list(range(0, 1000, 20))},
        condition={"n_embed": 500, "used": [7, 400]},
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.spec.autoencoder.codebook_size == 50
    assert checkpoint.spec.condition is not None
    assert checkpoint.spec.condition.autoencoder is not None
    assert checkpoint.spec.condition.autoencoder.codebook_size == 2
    check_complete(checkpoint)


def test_masks_need_not_be_stored(tmp_path: Path) -> None:
    config, state = make_state(kind="class")
    state = {key: value for key, value in state.items() if not key.endswith("attn.mask")}
    write_checkpoint(tmp_path, config=config, state=state)
    check_complete(open_checkpoint(tmp_path))


def test_hash_names_the_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, kind="vq"))
    assert checkpoint.source == "last.ckpt"
    assert checkpoint.sha256() == subprocess.run(
        [sys.executable, "-c", "import hashlib,sys;print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())",
         str(checkpoint.path)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_writing_to_a_weight_changes_nothing_else(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, kind="vq"))
    first = checkpoint.weights["first_stage.quant_conv.weight"]
    before, digest = first.copy(), checkpoint.sha256()
    first[:] = 0
    np.testing.assert_array_equal(checkpoint.weights["first_stage.quant_conv.weight"], before)
    assert checkpoint.sha256() == digest


# What is wrong is named


def edited(change: Any) -> Any:
    """Return a function that edits the dict under ``model.params``."""
    return lambda model: change(model["params"])


WRONG_CONFIGS: list[tuple[str, Any, str]] = [
    ("vq", lambda m: m.update(target="taming.models.vqgan.Other"), "taming.models.vqgan.Other"),
    ("vq", lambda m: m.pop("target"), "model.target is missing"),
    ("vq", lambda m: m.pop("params"), "model.params is missing"),
    ("vq", edited(lambda p: p.update(n_embed=47)), "n_embed is 47, the stored codebook has 48"),
    ("vq", edited(lambda p: p.update(n_embed="48")), "n_embed is '48', wanted a whole number"),
    ("vq", edited(lambda p: p.update(frobnicate=1)), r"model\.params\.frobnicate"),
    ("vq", edited(lambda p: p["ddconfig"].update(double_z=True)), "double_z is true"),
    ("vq", edited(lambda p: p["ddconfig"].pop("double_z")), "double_z is true"),
    ("vq", edited(lambda p: p["ddconfig"].pop("ch")), r"model\.params\.ddconfig\.ch is missing"),
    ("vq", edited(lambda p: p["ddconfig"].update(ch=64)), r"has shape \(.*\), wanted \(.*\).*own"),
    ("vq", edited(lambda p: p["ddconfig"].update(ch=33)), "no multiple of 32"),
    ("vq", edited(lambda p: p["ddconfig"].update(num_res_blocks=2)), "block.1.* is missing, wanted shape"),
    ("vq", edited(lambda p: p["ddconfig"].update(num_res_blocks=10**9)), "num_res_blocks"),
    ("vq", edited(lambda p: p["ddconfig"].update(ch_mult=[1] * 99)), "ch_mult is a list, wanted a list of at most 16"),
    ("vq", edited(lambda p: p["ddconfig"].update(ch_mult=[1 << 40])), "ch_mult"),
    ("vq", edited(lambda p: p.update(n_embed=1 << 200)), "n_embed is a number of more than 128 bits"),
    ("vq", edited(lambda p: p["ddconfig"].update(attn_resolutions=[])), r"attn\.0.* is unexpected"),
    ("vq", edited(lambda p: p["ddconfig"].update(resamp_with_conv=False)), r"sample\.conv.* is unexpected"),
    ("vq", edited(lambda p: p["ddconfig"].update(surprise=0)), "ddconfig.surprise"),
    ("gumbel", lambda m: m.update(target=FIRST_STAGE_TARGETS["vq"]), "quantize"),
    ("ldm", edited(lambda p: p["ddconfig"].update(attn_type="linear")), "attn_type is 'linear'"),
    ("ldm", edited(lambda p: p["ddconfig"].update(use_linear_attn=True)), "use_linear_attn"),
    ("ldm", edited(lambda p: p["ddconfig"].update(tanh_out=True)), "tanh_out"),
    ("class", edited(lambda p: p["cond_stage_config"].update(target="no.Such")), "no.Such"),
    ("class", edited(lambda p: p.update(cond_stage_config="__odd__")), "'__odd__'"),
    ("class", edited(lambda p: p.update(downsample_cond_size=16)), "downsample_cond_size is 16"),
    ("class", edited(lambda p: p["transformer_config"].update(target="no.GPT")), "no.GPT"),
    ("class", edited(lambda p: p["transformer_config"]["params"].update(n_layer=3)), "blocks.2.* is missing"),
    ("class", edited(lambda p: p["transformer_config"]["params"].update(n_head=3)), "no multiple of num_heads"),
    ("class", edited(lambda p: p["transformer_config"]["params"].update(n_unmasked=4)), "n_unmasked = 4"),
    ("class", edited(lambda p: p["transformer_config"]["params"].update(mystery=4)), "mystery"),
    ("class", edited(lambda p: p.update(pkeep=0)), "one-pass"),
    ("class", edited(lambda p: p.update(permuter_config={"target": "taming.modules.transformer.permuter.ZCurve"})),
     "permuter.forward_shuffle_idx"),
    ("class", edited(lambda p: p.update(permuter_config={"target": "no.Permuter"})), "no.Permuter"),
    ("boxes", edited(lambda p: p["transformer_config"]["params"].update(block_size=64)), "num_tokens is 0"),
    ("depth", edited(lambda p: p.update(cond_stage_config="__is_first_stage__")), "cond_stage_model.* differs"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "message"), WRONG_CONFIGS)
def test_wrong_configs(tmp_path: Path, kind: str, change: Any, message: str) -> None:
    folder = make_checkpoint(tmp_path, kind=kind)
    open_checkpoint(folder)
    change_config(folder, change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def without(key: str) -> Any:
    return lambda state: state.pop(key)


WRONG_STATES: list[tuple[str, dict[str, Any], Any, str]] = [
    ("vq", {}, without("decoder.norm_out.bias"), r"'decoder\.norm_out\.bias' is missing, wanted shape \(32,\)"),
    ("vq", {}, lambda s: s.update({"decoder.extra": torch.zeros(1)}), "'decoder.extra' is unexpected"),
    ("vq", {}, lambda s: s.update({"quant_conv.bias": torch.zeros(31)}),
     r"'quant_conv.bias' has shape \(31,\), wanted \(32,\)"),
    ("vq", {}, lambda s: s.update({"quant_conv.bias": "text"}), "'quant_conv.bias' can't be read: it is no dense"),
    ("vq", {}, lambda s: s.update({"quant_conv.bias": torch.zeros(1).expand(32)}), "'quant_conv.bias' can't be read"),
    ("vq", {}, lambda s: s.update({"quant_conv.bias": torch.zeros(32, dtype=torch.complex64)}), "element type"),
    ("class", {}, without("transformer.pos_emb"), "'transformer.pos_emb' is missing"),
    ("class", {}, lambda s: s.update(odd=torch.zeros(1)), "'odd' is unexpected"),
    ("vq", {"first_stage": {"used": [1, 48]}}, lambda s: None, "row 48, the codebook has 48"),
    ("vq", {"first_stage": {"used": [-1]}}, lambda s: None, "row -1"),
    ("vq", {"first_stage": {"used": []}}, lambda s: None, "empty"),
    ("vq", {}, lambda s: s.update({"quantize.used": torch.zeros(3)}), "no list of integers"),
    ("class", {"permuter": "Random"}, without("permuter.backward_shuffle_idx"), "backward_shuffle_idx' is missing"),
    ("class", {"permuter": "Random"},
     lambda s: s.update({"permuter.backward_shuffle_idx": s["permuter.forward_shuffle_idx"]}), "not the inverse"),
    ("class", {"permuter": "Random"},
     lambda s: s.update({"permuter.forward_shuffle_idx": torch.zeros(64, dtype=torch.int64)}), "no permutation"),
    ("class", {},
     lambda s: s.update({f"permuter.{d}_shuffle_idx": torch.arange(64) for d in ("forward", "backward")}),
     "config has no permuter"),
    ("first_stage", {}, lambda s: s.update({"cond_stage_model.quant_conv.bias": torch.zeros(32)}), "differs"),
    ("class", {}, lambda s: s["transformer.blocks.1.attn.mask"].fill_(1), "not the mask"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "overrides", "change", "message"), WRONG_STATES)
def test_wrong_state_dicts(tmp_path: Path, kind: str, overrides: dict[str, Any], change: Any, message: str) -> None:
    config, state = make_state(kind=kind, **overrides)
    change(state)
    write_checkpoint(tmp_path, config=config, state=state)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_equal_copies_of_a_shared_stage(tmp_path: Path) -> None:
    config, state = make_state(kind="first_stage")
    state = {key: value.clone() for key, value in state.items()}
    write_checkpoint(tmp_path, config=config, state=state)
    checkpoint = open_checkpoint(tmp_path)
    check_complete(checkpoint)
    assert "cond_stage_model.*" in checkpoint.ignored


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, kind="vq"))
    shutil.copyfile(make_checkpoint(tmp_path / "b", kind="gumbel") / "checkpoints" / "last.ckpt", checkpoint.path)
    with pytest.raises(CheckpointError, match="changed since"):
        checkpoint.weights["first_stage.quant_conv.weight"]


def test_checkpoint_is_frozen(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, kind="vq"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        checkpoint.path = tmp_path  # type: ignore[misc]


# Memory


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc, which only Linux has")
@pytest.mark.parametrize("layout", ["project", "legacy", "safetensors"])
def test_peak_memory(tmp_path: Path, layout: str) -> None:
    """120 MB of optimizer state and loss cost nothing, 40 MB of weights are held once."""
    config, state = make_state(kind="class", transformer={"n_embd": 512, "n_layer": 2, "vocab_size": 4096})
    state["loss.lpips"] = torch.zeros(15_000_000)
    write_checkpoint(tmp_path, config=config, state=state, layout=layout)
    if layout != "safetensors":
        file = tmp_path / "checkpoints" / "last.ckpt"
        content = {"state_dict": state, "optimizer_states": [{"exp_avg": torch.zeros(15_000_000)}]}
        torch.save(content, file, _use_new_zipfile_serialization=layout == "project")
    program = """
import sys
from trt_vqgan.export.checkpoint import open_checkpoint
def peak():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmHWM'))
import yaml, numpy
before = peak()
weights = open_checkpoint(sys.argv[1]).weights
held = {key: weights[key] for key in weights}
total = sum(float(value.sum()) for value in held.values())
assert 'torch' not in sys.modules
print(peak() - before, sum(value.nbytes for value in held.values()))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0, result.stderr
    grown, kept = map(int, result.stdout.split())
    assert kept > 35e6
    assert grown < 1.2 * kept + 20e6
