"""What a scene model's config says of its layout's tokens, and what it leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.scene_config import layout_form
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec


def scene_model(num_tokens: int, kind: Any = "boxes") -> ModelSpec:
    autoencoder = AutoencoderSpec(
        quantizer="nearest", in_channels=3, out_channels=3, base_channels=32, channel_multipliers=(1, 1),
        num_res_blocks=1, attention_resolutions=(), resolution=8, z_channels=8, code_dim=8, codebook_size=16,
    )  # fmt: skip
    transformer = TransformerSpec(vocab_size=16, max_seq_len=200, num_layers=1, num_heads=1, hidden_size=32)
    condition = ConditionSpec(kind=kind, num_tokens=num_tokens, num_classes=3)
    return ModelSpec(autoencoder=autoencoder, transformer=transformer, condition=condition)


def config(key: str | None = None, *, conditional_key: str | None = None, crops: Any = ()) -> dict[str, Any]:
    params: dict[str, Any] = {} if key is None else {"cond_stage_key": key}
    if conditional_key is not None:
        params["cond_stage_config"] = {"params": {"conditional_key": conditional_key}}
    splits = {split: {"params": {"encode_crop": crop}} for split, crop in zip(("train", "test"), crops, strict=False)}
    return {"model": {"params": params}, "data": {"params": splits}}


@pytest.mark.parametrize(
    ("content", "num_tokens", "form"),
    [
        (config("objects_bbox"), 92, "boxes+crop"),
        (config("objects_bbox"), 90, "boxes"),
        (config("objects_bbox"), 91, None),
        (config(conditional_key="objects_bbox"), 92, "boxes+crop"),
        (config("scene", conditional_key="objects_center_points", crops=[True]), 92, "points+crop"),
        (config("objects_center_points", crops=[False, False]), 92, "points"),
        (config("objects_center_points", crops=[True, False]), 92, None),
        (config("objects_center_points", crops=["yes"]), 92, None),
        (config("objects_center_points"), 92, None),
        (config("objects_center_points"), 2, "points"),
        (config("scene"), 92, None),
        (config(), 92, None),
        (config("objects_bbox") | {"data": [1]}, 92, "boxes+crop"),
        (config("objects_center_points") | {"data": {"params": {"train": None}}}, 92, None),
    ],
)
def test_forms(content: dict[str, Any], num_tokens: int, form: str | None) -> None:
    assert layout_form(content, scene_model(num_tokens)) == form


def test_other_models_have_no_layout() -> None:
    assert layout_form(config("objects_bbox"), scene_model(3, kind="class")) is None


def test_the_golden_scene_model_has_boxes_and_a_crop(shared_dir: Path) -> None:
    assert open_checkpoint(shared_dir / "golden" / "scene").layout_form == "boxes+crop"
