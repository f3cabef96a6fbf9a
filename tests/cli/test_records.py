"""A picture of every mode is made again from its PNG alone; test_modes.py has the training size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
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
from trt_vqgan.runtime.png_metadata import GenerationRecord, read_generation_record

LARGE = ["--size", "48x36"]  # 12 x 9 codes, the training grid is 8 x 8
RNG = np.random.default_rng(3)
LAYOUT = {
    "boxes": [{"class": "dog", "box": [0, 0.5, 0.3, 0.5]}, {"class": "cat", "box": [0.1, 0.2, 0.7, 0.2]}],
    "crop": [0, 0, 0.9, 1],
}

Files = dict[str, Path]


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bundles")
    options: dict[str, dict[str, Any]] = {"class": {"null_class": 4}, "boxes": {"class_names": ["cat", "dog"]}}

    def export(kind: str) -> Path:
        if not (folder / kind).exists():
            run_folder = make_checkpoint(folder / f"{kind}-run", kind=kind)
            trt_vqgan.export_checkpoint(run_folder, folder / kind, **options.get(kind, {}))
        return folder / kind

    return export


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Inputs of every mode; the test throws them away before the picture is made again."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    labels = RNG.integers(0, 7, (50, 61)).astype(np.uint8)
    Image.fromarray(labels).save(folder / "map.png")
    picture = RNG.integers(0, 256, (36, 48, 3)).astype(np.uint8)
    write_png(folder / "picture.png", picture)
    np.savez(folder / "codes.npz", codes=RNG.integers(0, 40, (1, 9, 12)))
    (folder / "layout.json").write_text(json.dumps(LAYOUT))
    return {path.name: path for path in folder.iterdir()}


MODES = {
    "class": ("class", ["--class", "2"]),
    "guidance": ("class", ["--class", "2", "--guidance", "3"]),
    "unconditional": ("unconditional", []),
    "coordinates": ("coord", []),
    "depth": ("depth", ["--depth", "map.png"]),
    "segmentation": ("segmentation", ["--segmentation", "map.png", "--fit", "stretch"]),
    "image": ("first_stage", ["--image", "picture.png"]),
    "layout": ("boxes", ["--layout", "layout.json"]),
    "completion": ("unconditional", ["--init", "picture.png", "--keep", "top"]),
    "pasting": ("class", ["--class", "1", "--init", "picture.png", "--keep", "8,8,20,20", "--paste"]),
    "shifted": ("boxes", ["--layout", "layout.json", "--window-shift", "4", "--decode-tiles"]),
    "variation": ("depth", ["--depth", "map.png", "--init", "picture.png", "--resample", "0.4"]),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_a_picture_is_made_again(bundle_of: Callable[[str], Path], files: Files, tmp_path: Path, mode: str) -> None:
    kind, options = MODES[mode]
    given = [files.get(option, option) for option in options]
    out = tmp_path / "out"
    run("generate", bundle_of(kind), "-o", out, "-n", "2", "--seed", "5", *given, *LARGE)
    for path in files.values():
        path.unlink()
    source, again = out / "5-00001.png", tmp_path / "again.png"
    run("generate", bundle_of(kind), "-o", again, "--from", source)
    assert read_generation_record(again) == read_generation_record(source)
    np.testing.assert_array_equal(read_image(again), read_image(source))
    other = read_generation_record(out / "5-00000.png")
    assert other.codes != read_generation_record(source).codes


def test_codes_of_a_larger_map_are_carried(bundle_of: Callable[[str], Path], files: Files, tmp_path: Path) -> None:
    source, again = tmp_path / "a.png", tmp_path / "again.png"
    run("generate", bundle_of("depth"), "-o", source, "--condition-codes", files["codes.npz"], *LARGE)
    run("generate", bundle_of("depth"), "-o", again, "--from", source)
    assert read_generation_record(again) == read_generation_record(source)


def test_a_layout_in_a_record(bundle_of: Callable[[str], Path], files: Files, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    run("generate", bundle_of("boxes"), "-o", source, "--layout", files["layout.json"], *LARGE)
    record = read_generation_record(source)
    assert record.condition_codes is None
    assert record.layout is not None
    assert [(box.token, box.box) for box in record.layout.boxes] == [(1, (0, 0.5, 0.3, 0.5)), (0, (0.1, 0.2, 0.7, 0.2))]
    assert record.layout.crop == (0, 0, 0.9, 1)


def test_a_record_without_what_it_needs(bundle_of: Callable[[str], Path], files: Files, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    run("generate", bundle_of("boxes"), "-o", source, "--layout", files["layout.json"], *LARGE)
    record = read_generation_record(source)
    assert record.layout is not None
    again = ["generate", bundle_of("boxes"), "-o", tmp_path / "b.png", "--from", source]
    _carry(source, dataclasses.replace(record, layout=None))
    assert "its record has no layout" in run(*again, status=1)
    box = dataclasses.replace(record.layout.boxes[0], token=-3)
    _carry(source, dataclasses.replace(record, layout=dataclasses.replace(record.layout, boxes=(box,))))
    assert "class -3 is out of range" in run(*again, status=1)
    assert not (tmp_path / "b.png").exists()


def _carry(path: Path, record: GenerationRecord) -> None:
    write_png(path, read_image(path), record.to_text_chunk())
