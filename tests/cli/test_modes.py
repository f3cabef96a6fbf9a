"""Every way to make a picture from the command line, made again from its PNG, and each wrong input as one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.cli import main
from trt_vqgan.cli.watching import Watcher
from trt_vqgan.errors import ConditionError, ShapeError
from trt_vqgan.runtime.images import read_image, write_png
from trt_vqgan.runtime.pipeline import Preview
from trt_vqgan.runtime.png_metadata import read_generation_record

SIDE = 32
RNG = np.random.default_rng(0)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: str | Path) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fail(*arguments: str | Path, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("trt-vqgan: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    options: dict[str, dict] = {"class": {"null_class": 4}, "boxes": {"class_names": ["cat", "dog"]}}
    kinds = ("class", "depth", "segmentation", "boxes", "first_stage", "unconditional")
    return {
        kind: trt_vqgan.export_checkpoint(
            make_checkpoint(folder / f"{kind}-run", kind=kind), folder / kind, **options.get(kind, {})
        )
        for kind in kinds
    }


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    write_png(tmp_path / "picture.png", RNG.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    return tmp_path / "picture.png"


def condition_file(folder: Path, kind: str) -> Path:
    """Write a condition of another size than the model's."""
    if kind == "boxes":
        path = folder / "layout.json"
        path.write_text(json.dumps({"boxes": [{"class": "dog", "box": [0, 0.5, 0.5, 0.5]}]}))
        return path
    path = folder / f"{kind}.png"
    labels = RNG.integers(0, 7, (40, 61)).astype(np.uint8)
    Image.fromarray(labels if kind != "first_stage" else np.stack([labels * 30] * 3, axis=2)).save(path)
    return path


OPTION = {"depth": "--depth", "segmentation": "--segmentation", "boxes": "--layout", "first_stage": "--image"}


@pytest.mark.parametrize("kind", list(OPTION))
def test_conditions_from_files(bundles: dict[str, Path], tmp_path: Path, kind: str) -> None:
    source = condition_file(tmp_path, kind)
    report = succeed("generate", bundles[kind], "-o", tmp_path / "out", OPTION[kind], source, "-n", "2", "--seed", "5")
    paths = [Path(row["file"]) for row in report["pictures"]]
    records = [read_generation_record(path) for path in paths]
    assert records[0].condition_codes == records[1].condition_codes is not None
    assert records[0].codes != records[1].codes
    again = tmp_path / "again.png"
    succeed("generate", bundles[kind], "-o", again, "--from", paths[1])
    np.testing.assert_array_equal(read_image(again), read_image(paths[1]))
    assert read_generation_record(again) == records[1]


@pytest.mark.parametrize("kind", ["depth", "segmentation", "first_stage"])
def test_fitting_decides_what_is_seen(bundles: dict[str, Path], tmp_path: Path, kind: str) -> None:
    source = condition_file(tmp_path, kind)
    conditions = set()
    for fit in ("crop", "pad", "stretch"):
        out = tmp_path / f"{fit}.png"
        succeed("generate", bundles[kind], "-o", out, OPTION[kind], source, "--fit", fit)
        conditions.add(read_generation_record(out).condition_codes)
    assert len(conditions) == 3


@pytest.mark.parametrize("kind", list(OPTION))
def test_a_model_that_needs_a_condition_names_the_option(bundles: dict[str, Path], tmp_path: Path, kind: str) -> None:
    assert f"needs {OPTION[kind]} " in fail("generate", bundles[kind], "-o", tmp_path / "out")
    other = OPTION["depth" if kind != "depth" else "segmentation"]
    message = fail("generate", bundles[kind], "-o", tmp_path / "out", other, tmp_path / "none.png")
    assert f"this model takes no {other[2:]}" in message
    assert f"give {OPTION[kind]}" in message
    message = fail("generate", bundles[kind], "-o", tmp_path / "out", OPTION[kind], tmp_path / "none.png")
    assert "no such file" in message.lower()
    assert not (tmp_path / "out").exists()


def test_wrong_condition_files(bundles: dict[str, Path], tmp_path: Path) -> None:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[3, 3] = 9
    Image.fromarray(labels).save(tmp_path / "labels.png")
    message = fail(
        "generate", bundles["segmentation"], "-o", tmp_path / "out", "--segmentation", tmp_path / "labels.png"
    )
    assert "labels.png: found label 9, this model knows 0 to 6" in message
    (tmp_path / "a.json").write_text(json.dumps({"boxes": [{"class": "cat", "box": [10, 10, 100, 100]}]}))
    message = fail("generate", bundles["boxes"], "-o", tmp_path / "out", "--layout", tmp_path / "a.json")
    assert "a.json: layout: box 0: reaches from (10, 10) to (110, 110), outside the picture" in message
    (tmp_path / "a.json").write_text(json.dumps({"boxes": [{"class": "cow", "box": [0, 0, 1, 1]}]}))
    message = fail("generate", bundles["boxes"], "-o", tmp_path / "out", "--layout", tmp_path / "a.json")
    assert "'cow' is unknown, wanted one of cat, dog" in message
    assert not (tmp_path / "out").exists()


def test_labels_of_coco_stuff(bundles: dict[str, Path], tmp_path: Path) -> None:
    """255 becomes 0, every other label one more."""
    labels = RNG.integers(0, 6, (SIDE, SIDE)).astype(np.uint8)
    labels[:8] = 255
    Image.fromarray(labels).save(tmp_path / "coco.png")
    Image.fromarray(labels + np.uint8(1)).save(tmp_path / "shifted.png")
    make = ["generate", bundles["segmentation"], "-o", tmp_path / "a.png", "--segmentation"]
    assert "models of COCO-Stuff give --shift-labels" in fail(*make, tmp_path / "coco.png")
    succeed(*make, tmp_path / "coco.png", "--shift-labels")
    record = read_generation_record(tmp_path / "a.png")
    succeed(*make, tmp_path / "shifted.png")
    assert record == read_generation_record(tmp_path / "a.png")
    with trt_vqgan.load(bundles["segmentation"], threads=1) as pipe:
        wanted = pipe.encode_condition(segmentation=labels, shift_labels=True)
        assert wanted.reshape(-1).tolist() == list(record.condition_codes or ())
        pictures = pipe.generate(segmentation=labels, shift_labels=True)
        np.testing.assert_array_equal(pictures.codes[0], np.array(record.codes))
        for wrong in (labels.astype(float), labels.astype(int) + 1):
            with pytest.raises((ShapeError, ConditionError), match="shift_labels: found"):
                pipe.encode_condition(segmentation=wrong, shift_labels=True)
        with pytest.raises(ConditionError, match="leave shift_labels out"):
            pipe.generate(condition_codes=wanted, shift_labels=True)
    with (
        trt_vqgan.load(bundles["unconditional"], threads=1) as pipe,
        pytest.raises(ConditionError, match="shift_labels is about label ids"),
    ):
        pipe.generate(shift_labels=True)
    labels[0, 0] = 6
    Image.fromarray(labels).save(tmp_path / "coco.png")
    message = fail(*make, tmp_path / "coco.png", "--shift-labels")
    assert "found label 6, which --shift-labels makes 7, this model knows 0 to 6" in message
    depth = ["generate", bundles["depth"], "-o", tmp_path / "a.png", "--shift-labels", "--depth"]
    assert "give --segmentation IMG too" in fail(*depth, tmp_path / "coco.png", status=2)
    assert "give --segmentation IMG too" in fail("generate", bundles["class"], "-o", "a", "--shift-labels", status=2)


@pytest.mark.parametrize("paste", [False, True])
@pytest.mark.parametrize("keep", ["left", "4,4,16,20", "mask"])
def test_inpainting(bundles: dict[str, Path], picture: Path, tmp_path: Path, keep: str, paste: bool) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    if keep == "left":
        mask[:, : SIDE // 2] = True
    else:
        mask[4:24, 4:20] = True
    if keep == "mask":
        Image.fromarray(mask).save(tmp_path / "mask.png")
        keep = str(tmp_path / "mask.png")
    options: list[str | Path] = ["--init", picture, "--keep", keep, "--seed", "3", *["--paste"] * paste]
    report = succeed("generate", bundles["unconditional"], "-o", tmp_path / "out", "-n", "2", *options)
    path = Path(report["pictures"][1]["file"])
    record = read_generation_record(path)
    with trt_vqgan.load(bundles["unconditional"], threads=1) as pipe:
        wanted = pipe.generate(init=read_image(picture), keep=mask, seed=3, n=2, paste=paste)
    np.testing.assert_array_equal(np.array(record.codes), wanted.codes[1])
    np.testing.assert_array_equal(read_image(path), wanted.images[1])
    assert record.pasted == paste
    again = tmp_path / "again.png"
    succeed("generate", bundles["unconditional"], "-o", again, "--from", path)
    np.testing.assert_array_equal(read_image(again), read_image(path))
    assert read_generation_record(again).codes == record.codes


def test_variations(bundles: dict[str, Path], picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeed("generate", bundles["class"], "-o", out, "--class", "2", "--init", picture, "--resample", "0.25", "-n", "2")
    records = [read_generation_record(path) for path in sorted(out.iterdir())]
    kept = np.array([record.kept_codes for record in records])
    assert (kept == -1).sum(axis=(1, 2)).tolist() == [16, 16]
    assert (kept[0] != kept[1]).any()
    assert records[0].class_id == 2
    again = tmp_path / "again.png"
    succeed("generate", bundles["class"], "-o", again, "--from", out / "0-00001.png")
    assert read_generation_record(again) == records[1]


def test_wrong_masks(bundles: dict[str, Path], picture: Path, tmp_path: Path) -> None:
    edit = ["generate", bundles["class"], "-o", tmp_path / "out", "--init", picture, "--keep"]
    Image.fromarray(np.ones((10, 20), bool)).save(tmp_path / "mask.png")
    assert "the mask has 20 x 10 pixels" in fail(*edit, tmp_path / "mask.png")
    assert "not inside the picture of 32 x 32" in fail(*edit, "0,0,33,5")
    assert "or the file of a mask" in fail(*edit, "middle", status=2)
    assert "or the file of a mask" in fail(*edit, tmp_path / "none.png", status=2)
    assert "no such file" in fail(
        "generate", bundles["class"], "-o", "x", "--init", tmp_path / "no.png", "--keep", "top"
    )
    assert not (tmp_path / "out").exists()


def test_guidance(bundles: dict[str, Path], tmp_path: Path) -> None:
    options = ["--class", "1", "--seed", "4"]
    succeed("generate", bundles["class"], "-o", tmp_path / "a.png", "--guidance", "3", *options)
    succeed("generate", bundles["class"], "-o", tmp_path / "b.png", *options)
    record = read_generation_record(tmp_path / "a.png")
    assert record.guidance == 3
    assert record.codes != read_generation_record(tmp_path / "b.png").codes
    succeed("generate", bundles["class"], "-o", tmp_path / "again.png", "--from", tmp_path / "a.png")
    assert read_generation_record(tmp_path / "again.png") == record
    message = fail("generate", bundles["unconditional"], "-o", tmp_path / "c.png", "--guidance", "3")
    assert "guidance needs a class that stands for no class" in message


def test_all_classes_leave_out_the_null_class(bundles: dict[str, Path], tmp_path: Path) -> None:
    report = succeed("generate", bundles["class"], "-o", tmp_path / "out", "--class", "all")
    assert [row["class_id"] for row in report["pictures"]] == [0, 1, 2, 3]
    assert "4, so --guidance works" in run("info", bundles["class"]).stdout
    assert "2: cat, dog" in run("info", bundles["boxes"]).stdout


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_an_animation_of_one_picture(bundles: dict[str, Path], tmp_path: Path, name: str) -> None:
    out, film = tmp_path / "out.png", tmp_path / name
    report = succeed("generate", bundles["class"], "-o", out, "--animate", film, "--preview", "16")
    assert report["animation"] == str(film)
    with Image.open(film) as frames:
        assert frames.size == (SIDE, SIDE)
        assert frames.n_frames == 4  # after 16, 32 and 48 codes, and the picture
        if name.endswith("webp"):
            frames.seek(3)
            np.testing.assert_array_equal(np.asarray(frames.convert("RGB")), read_image(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out.png", name]), "no preview stays"
    plain = tmp_path / "plain.png"
    succeed("generate", bundles["class"], "-o", plain)
    np.testing.assert_array_equal(read_image(plain), read_image(out))


def test_an_animation_of_several_pictures(bundles: dict[str, Path], tmp_path: Path) -> None:
    film = tmp_path / "a.gif"
    succeed("generate", bundles["class"], "-o", tmp_path / "out", "-n", "4", "--batch-size", "3", "--animate", film)
    with Image.open(film) as frames:
        assert frames.size == (2 * SIDE + 6, 2 * SIDE + 6)
        assert frames.n_frames == 2 * 8  # two batches of seven rows and the end


def test_previews_are_written_while_a_picture_is_made(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    plain_call = Watcher.__call__

    def spy(self: Watcher, preview: Preview) -> bool:
        result = plain_call(self, preview)
        (path,) = tmp_path.glob("*.preview.png")
        seen.append(read_image(path))
        return result

    monkeypatch.setattr(Watcher, "__call__", spy)
    succeed("generate", bundles["class"], "-o", tmp_path / "a.png", "--preview", "20")
    assert len(seen) == 3
    grey = [(image == 127).all(axis=2).mean() for image in seen]
    assert grey == sorted(grey, reverse=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_animation_that_cannot_be_written(bundles: dict[str, Path], tmp_path: Path) -> None:
    make = ["generate", bundles["class"], "-o", tmp_path / "out", "--animate"]
    assert "ends in .gif or .webp" in fail(*make, tmp_path / "a.mp4")
    (tmp_path / "file").touch()
    assert "file: is no folder, wanted one to write a.gif into" in fail(*make, tmp_path / "file" / "a.gif")
    (tmp_path / "b.gif").mkdir()
    assert "is a folder" in fail(*make, tmp_path / "b.gif")
    assert not (tmp_path / "out").exists(), "it was told before any work"
