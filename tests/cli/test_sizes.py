"""`generate --size` and what belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from trt_vqgan.cli import main
from trt_vqgan.runtime.images import read_image


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
    ],
)
def test_what_is_refused(demo_bundle: Path, tmp_path: Path, options: list[str], status: int, message: str) -> None:
    result = run("generate", demo_bundle, "-o", tmp_path / "out", *options)
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stderr.startswith("trt-vqgan: error: ")
    assert not (tmp_path / "out").exists()
