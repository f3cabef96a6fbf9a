"""The models that ship with the package, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from trt_vqgan.cli import main
from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.demos import DEMOS, FOLDER, demo_bundle, example_maps
from trt_vqgan.runtime.images import read_image

KINDS = 5
LIMIT_BYTES = 30_000_000


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_demos_share_their_autoencoder_and_fit_the_wheel() -> None:
    manifests = [read_manifest(demo_bundle(name)) for name in DEMOS]
    assert len({manifest.files["decoder.onnx"].sha256 for manifest in manifests}) == 1
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= LIMIT_BYTES
    for manifest in manifests:
        assert manifest.licence == "Apache-2.0"
        assert "rendered landscapes" in (manifest.provenance or "")
        assert manifest.precision["transformer"] == "int8"


@pytest.mark.parametrize("name", ["segmentation", "depth"])
def test_a_demo_is_shown_with_the_maps_that_ship(name: str, tmp_path: Path) -> None:
    result = run("generate", "--demo", name, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["pictures"]) == KINDS == len(example_maps(name))
    images = [read_image(row["file"]) for row in report["pictures"]]
    # a map of yours gives the picture that the same map of the package gave
    own = run("generate", "--demo", name, f"--{name}", example_maps(name)[0], "-o", tmp_path / "own.png")
    assert own.exit_code == 0, own.output
    np.testing.assert_array_equal(read_image(tmp_path / "own.png"), images[0])
    assert not np.array_equal(images[0], images[1])
    again = run("generate", "--demo", name, "--from", report["pictures"][1]["file"], "-o", tmp_path / "again.png")
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(read_image(tmp_path / "again.png"), images[1])


def test_the_class_demo_is_the_default(tmp_path: Path) -> None:
    for name, arguments in (("a", ["--demo", "class"]), ("b", [])):
        result = run("generate", *arguments, "-o", tmp_path / f"{name}.png", "--class", "winter", "--seed", "4")
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))


def test_a_larger_picture_from_a_map_of_the_package(tmp_path: Path) -> None:
    result = run(
        "generate", "--demo", "segmentation", "-o", tmp_path / "wide.png", "--size", "192x128", "--window-shift", "8",
        "-n", "1", "--fit", "stretch",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert read_image(tmp_path / "wide.png").shape == (128, 192, 3)


def test_a_mask_ships_too(tmp_path: Path) -> None:
    maps = FOLDER / "maps"
    result = run(
        "generate", "--class", "desert", "--init", maps / "picture-desert.png", "--keep", maps / "mask-left-half.png",
        "-o", tmp_path / "out.png",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = read_image(tmp_path / "out.png").astype(int)
    wanted = read_image(maps / "picture-desert.png").astype(int)
    difference = np.abs(made - wanted).mean(axis=(0, 2))
    assert difference[:48].mean() < difference[80:].mean()


def test_bundle_and_demo_are_one_too_many(tmp_path: Path) -> None:
    result = run("generate", tmp_path / "bundle", "--demo", "class", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "choose one" in result.stderr


def test_a_segmentation_of_more_labels_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((128, 128), 77, np.uint8)).save(tmp_path / "labels.png")
    result = run("generate", "--demo", "segmentation", "--segmentation", tmp_path / "labels.png", "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "found label 77, this model knows 0 to 8" in result.stderr


def test_unknown_demo() -> None:
    with pytest.raises(BundleError, match="'portrait'"):
        demo_bundle("portrait")
