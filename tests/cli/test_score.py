"""`score` with every condition that `generate` takes, and with several pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.cli import main
from trt_vqgan.runtime.images import read_image, write_png

SIDE = 32
RNG = np.random.default_rng(1)
LAYOUT = {"boxes": [{"class": 2, "box": [0, 0.5, 0.5, 0.5]}]}
LABELS = RNG.integers(0, 6, (40, 61)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (40, 61, 3)).astype(np.uint8)


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stderr if status else result.stdout


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        write_png(path, RNG.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    Image.fromarray(LABELS).save(tmp_path / "map.png")
    write_png(tmp_path / "colours.png", COLOURS)
    (tmp_path / "layout.json").write_text(json.dumps(LAYOUT))
    np.savez(tmp_path / "codes.npz", codes=np.arange(64).reshape(1, 64) % 40)
    return paths


def bundle(folder: Path, kind: str) -> Path:
    return trt_vqgan.export_checkpoint(make_checkpoint(folder / "run", kind=kind), folder / "bundle")


@pytest.mark.parametrize(
    ("kind", "options", "argument"),
    [
        ("depth", ["--depth", "map.png"], {"depth": LABELS}),
        ("depth", ["--depth", "map.png", "--fit", "stretch"], {"depth": LABELS, "fit": "stretch"}),
        ("segmentation", ["--segmentation", "map.png"], {"segmentation": LABELS}),
        ("segmentation", ["--segmentation", "map.png", "--shift-labels"], {"segmentation": LABELS + 1}),
        ("boxes", ["--layout", "layout.json"], {"layout": LAYOUT}),
        ("first_stage", ["--image", "colours.png"], {"image": COLOURS}),
        ("coord", [], {}),
        ("unconditional", [], {}),
    ],
)
def test_conditions(
    pictures: list[Path], tmp_path: Path, kind: str, options: list[str], argument: dict[str, Any]
) -> None:
    folder = bundle(tmp_path, kind)
    files = [tmp_path / option if "." in option else option for option in options]
    report = json.loads(run("score", folder, *pictures, *files, "--json"))
    with trt_vqgan.load(folder) as pipe:
        condition = pipe.encode_condition(**argument)
        for path, row in zip(pictures, report["scores"], strict=True):
            assert row["image"] == str(path)
            nats = pipe.score(read_image(path)[None], condition)
            assert row["nll_nats"] == float(nats.sum())
            assert row["bits_per_code"] == pytest.approx(float(nats.mean()) / np.log(2))
    text = run("score", folder, *pictures, *files)
    assert text.count(" nats a code ") == 3
    assert len({row["nll_nats"] for row in report["scores"]}) == 3


def test_classes_and_pictures_of_another_size(pictures: list[Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path, "class")
    large = tmp_path / "colours.png"
    report = json.loads(
        run("score", folder, pictures[0], large, "--class", "1", "--class", "3", "--fit", "crop", "--json")
    )
    assert [(Path(row["image"]).name, row["class_id"]) for row in report["scores"]] == [
        ("0.png", 1), ("0.png", 3), ("colours.png", 1), ("colours.png", 3),
    ]  # fmt: skip
    assert "61 x 40 pixels, this model scores pictures of 32 x 32; give --fit" in run("score", folder, large, status=1)
    assert "no such file" in run("score", folder, pictures[0], tmp_path / "none.png", status=1)
    assert "this model takes no depth" in run("score", folder, large, "--depth", tmp_path / "map.png", status=1)


def test_conditions_that_do_not_fit(pictures: list[Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path, "depth")
    one = pictures[0]
    assert "needs --depth IMG or --condition-codes FILE.npz with 64 codes" in run("score", folder, one, status=1)
    both = ["--depth", tmp_path / "map.png", "--condition-codes", tmp_path / "codes.npz"]
    assert "both give the condition" in run("score", folder, one, *both, status=2)
    np.savez(tmp_path / "two.npz", codes=np.zeros((2, 64), int))
    message = run("score", folder, one, "--condition-codes", tmp_path / "two.npz", status=1)
    assert "two.npz: holds 2 conditions, wanted one" in message
    assert "give --segmentation IMG too" in run("score", folder, one, *both[:2], "--shift-labels", status=2)
    run("score", folder, one, *both[2:])
