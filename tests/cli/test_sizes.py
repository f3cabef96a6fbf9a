"""`generate --size` and what belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.cli import main
from trt_vqgan.runtime.images import read_image, write_png


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def large(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("large") / "out"
    result = run(
        "generate", demo_bundle, "-o", out, "--size", "192x136", "--class", "desert", "--window-shift", "4",
        "--preview", "150", "--animate", out / "frames.gif", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_a_picture_of_that_size(large: tuple[Path, dict]) -> None:
    out, report = large
    (picture,) = report["pictures"]
    assert read_image(picture["file"]).shape == (136, 192, 3)
    assert (out / "frames.gif").is_file()


def test_it_can_be_made_again(large: tuple[Path, dict], demo_bundle: Path, tmp_path: Path) -> None:
    _, report = large
    source = report["pictures"][0]["file"]
    result = run("generate", demo_bundle, "--from", source, "-o", tmp_path / "again.png")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "again.png"), read_image(source))


def test_a_map_too_large_to_encode_is_refused_before_it_is_scaled(tmp_path: Path) -> None:
    bundle = trt_vqgan.export_checkpoint(make_checkpoint(tmp_path / "run", kind="depth"), tmp_path / "bundle")
    write_png(tmp_path / "depth.png", np.zeros((36, 48, 3), np.uint8))
    result = run("generate", bundle, "-o", tmp_path / "out", "--depth", tmp_path / "depth.png", "--size", "20000x20000")
    assert result.exit_code == 1
    assert "encoding depth of 20000x20000 = 400000000 pixels needs" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--size", "192"], 2, "wanted WIDTHxHEIGHT"),
        (["--size", "100x200"], 1, "at least 128x128"),
        (["--size", "130x200"], 1, "wanted multiples of 8, such as 128x200"),
        (["--size", "20000x20000"], 1, "memory"),
        (["--size", "192x136", "--window-shift", "9"], 1, "window shift: found 9, wanted 1 to 8"),
        (["--window-shift", "2"], 2, "give --size"),
        (["--window-plan", "plain"], 2, "give --size"),
        (["--memory", "1"], 2, "give --size"),
        (["--size", "192x136", "--memory", "-1"], 2, "--memory"),
        (["--size", "192x136", "--memory", "nan"], 2, "--memory nan: wanted a number of gigabytes"),
        (["--size", "192x136", "--memory", "1e300"], 2, "wanted a number of gigabytes"),
        (["--size", "192x136", "--memory", "0"], 1, "one window's cache takes"),
        (["--size", "20000x20000", "--decode-tiles"], 1, "in tiles needs"),
    ],
)
def test_what_is_refused(demo_bundle: Path, tmp_path: Path, options: list[str], status: int, message: str) -> None:
    result = run("generate", demo_bundle, "-o", tmp_path / "out", *options)
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stderr.startswith("trt-vqgan: error: ")
    assert not (tmp_path / "out").exists()
