"""The commands at work, with the bundle that ships in the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from trt_vqgan.cli import main
from trt_vqgan.runtime.images import read_image, write_png
from trt_vqgan.runtime.png_metadata import read_generation_record

SIDE = 128
GRID = 16


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: str | Path) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def fail(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("trt-vqgan: error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def made(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Six pictures, the five classes in turn, with sheet and .npz."""
    out = tmp_path_factory.mktemp("made")
    result = succeed("generate", demo_bundle, "-o", out, "-n", "6", "--grid", "--npz", out / "all.npz", "--json")
    return out, json.loads(result.stdout)


def test_classes_in_turn(made: tuple[Path, dict]) -> None:
    out, report = made
    assert [row["class_id"] for row in report["pictures"]] == [0, 1, 2, 3, 4, 0]
    assert report["pictures"][2]["class_name"] == "desert"
    images = [read_image(row["file"]) for row in report["pictures"]]
    assert all(image.shape == (SIDE, SIDE, 3) for image in images)
    # Two pictures of the same class are different pictures.
    assert not np.array_equal(images[0], images[5])
    with np.load(out / "all.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], np.stack(images))
        assert arrays["arr_1"].tolist() == [0, 1, 2, 3, 4, 0]
    with Image.open(out / "grid.png") as sheet:
        assert min(sheet.size) > SIDE
    assert len(list(out.iterdir())) == 8


def test_a_picture_is_made_again(demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    _, report = made
    source = report["pictures"][4]["file"]
    succeed("generate", demo_bundle, "-o", tmp_path / "again.png", "--from", source)
    assert np.array_equal(read_image(tmp_path / "again.png"), read_image(source))
    assert read_generation_record(tmp_path / "again.png") == read_generation_record(source)


def test_batch_size_changes_nothing(demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    _, report = made
    succeed("generate", demo_bundle, "-o", tmp_path, "-n", "3", "--batch-size", "2")
    for row in report["pictures"][:3]:
        assert np.array_equal(read_image(tmp_path / Path(row["file"]).name), read_image(row["file"]))


def test_another_bundle_or_altered_record_is_refused(
    demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path
) -> None:
    import dataclasses

    _, report = made
    source = report["pictures"][0]["file"]
    record = read_generation_record(source)
    other = dataclasses.replace(record, bundle_id="0" * 16)
    write_png(tmp_path / "other.png", read_image(source), other.to_text_chunk())
    message = fail("generate", demo_bundle, "-o", tmp_path / "out", "--from", tmp_path / "other.png")
    assert "was made with bundle 0000000000000000" in message
    wrong = dataclasses.replace(record, codes=((0,) * GRID,) * GRID)
    write_png(tmp_path / "wrong.png", read_image(source), wrong.to_text_chunk())
    message = fail("generate", demo_bundle, "-o", tmp_path / "out", "--from", tmp_path / "wrong.png")
    assert "its codes differ" in message


def test_unknown_class(demo_bundle: Path, tmp_path: Path) -> None:
    assert "'jungle'" in fail("generate", demo_bundle, "-o", tmp_path / "out", "--class", "jungle")
    assert "99" in fail("generate", demo_bundle, "-o", tmp_path / "out", "--class", "99")
    assert not (tmp_path / "out").exists()


def test_all_classes_and_greedy(demo_bundle: Path, tmp_path: Path) -> None:
    report = json.loads(succeed("generate", demo_bundle, "-o", tmp_path, "--class", "all", "--greedy", "--json").stdout)
    assert [row["class_name"] for row in report["pictures"]] == [
        "mountain-lake", "green-hills", "desert", "winter", "sea-sunset",
    ]  # fmt: skip


def test_condition_codes_are_the_class(demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    _, report = made
    np.savez(tmp_path / "c.npz", condition_codes=np.array([[0], [1]]))
    succeed("generate", demo_bundle, "-o", tmp_path / "out", "--condition-codes", tmp_path / "c.npz")
    paths = sorted((tmp_path / "out").iterdir())
    for path, row in zip(paths, report["pictures"][:2], strict=True):
        assert np.array_equal(read_image(path), read_image(row["file"]))
    again = tmp_path / "again.png"
    succeed("generate", demo_bundle, "-o", again, "--from", paths[1])
    assert np.array_equal(read_image(again), read_image(paths[1]))


def test_encode_and_decode_are_reconstruct(demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    _, report = made
    picture = read_image(report["pictures"][0]["file"])[:100, :77]
    write_png(tmp_path / "odd.png", picture)
    rows = json.loads(succeed("reconstruct", demo_bundle, tmp_path / "odd.png", "-o", tmp_path / "r", "--json").stdout)
    row = rows["pictures"][0]
    assert (row["width"], row["height"]) == (77, 100)
    assert row["psnr_db"] > 15
    assert row["bits_per_pixel"] == pytest.approx(13 * 10 * 10 / (100 * 77))
    succeed("encode", demo_bundle, tmp_path / "odd.png", "-o", tmp_path / "odd.npz")
    succeed("decode", demo_bundle, tmp_path / "odd.npz", "-o", tmp_path / "d.png")
    assert np.array_equal(read_image(tmp_path / "d.png"), read_image(row["file"]))
    with np.load(tmp_path / "odd.npz") as arrays:
        np.savez(tmp_path / "other.npz", codes=arrays["codes"], size=arrays["size"], bundle_id=np.array("0" * 16))
    assert "bundle 0000000000000000" in fail("decode", demo_bundle, tmp_path / "other.npz", "-o", tmp_path / "e")


def test_several_pictures_in_one_file(demo_bundle: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    _, report = made
    sources = [row["file"] for row in report["pictures"][:2]]
    succeed("encode", demo_bundle, *sources, "-o", tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as arrays:
        assert arrays["codes"].shape == (2, GRID, GRID)
    succeed("decode", demo_bundle, tmp_path / "c.npz", "-o", tmp_path / "out")
    succeed("reconstruct", demo_bundle, sources[1], "-o", tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "c-00001.png"), read_image(tmp_path / "one.png"))
    write_png(tmp_path / "odd.png", np.zeros((SIDE, SIDE + 8, 3), np.uint8))
    message = fail("encode", demo_bundle, sources[0], tmp_path / "odd.png", "-o", tmp_path / "d.npz")
    assert "one file holds codes of pictures of one size" in message
    assert not (tmp_path / "d.npz").exists()


def test_decoding_in_tiles(demo_bundle: Path, tmp_path: Path) -> None:
    codes = np.add.outer(np.arange(4), np.arange(56)) // 7  # wider than a frame of 48
    np.savez(tmp_path / "c.npz", codes=codes[None])
    for name, options in (("whole", []), ("tiles", ["--decode-tiles"])):
        succeed("decode", demo_bundle, tmp_path / "c.npz", "-o", tmp_path / f"{name}.png", *options)
    whole, tiles = read_image(tmp_path / "whole.png"), read_image(tmp_path / "tiles.png")
    assert whole.shape == tiles.shape == (32, 448, 3)
    assert (whole != tiles).any()
    np.savez(tmp_path / "large.npz", codes=np.zeros((1, 2, 1 << 20), int))
    message = fail("decode", demo_bundle, tmp_path / "large.npz", "-o", tmp_path / "l.png", "--decode-tiles")
    assert "8388608x16 is 134217728 pixels" in message


def test_codes_out_of_range(demo_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", codes=np.full((1, 2, 2), 1024))
    assert "1024" in fail("decode", demo_bundle, tmp_path / "c.npz", "-o", tmp_path / "out")


def test_score_prefers_the_right_class(demo_bundle: Path, made: tuple[Path, dict]) -> None:
    _, report = made
    source = report["pictures"][3]["file"]
    rows = json.loads(succeed("score", demo_bundle, source, "--json").stdout)["scores"]
    assert len(rows) == 5
    assert min(rows, key=lambda row: row["nll_nats"])["class_name"] == "winter"
    one = json.loads(succeed("score", demo_bundle, source, "--class", "winter", "--json").stdout)["scores"]
    assert one == [rows[3]]
    assert one[0]["bits_per_code"] == pytest.approx(one[0]["nll_nats"] / GRID**2 / np.log(2))


def test_score_of_another_size(demo_bundle: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((SIDE, SIDE + 8, 3), np.uint8))
    assert "136 x 128 pixels, this model scores pictures of 128 x 128" in fail("score", demo_bundle, tmp_path / "a.png")


def test_info(demo_bundle: Path) -> None:
    text = succeed("info", demo_bundle).stdout
    assert "mountain-lake, green-hills, desert, winter, sea-sunset" in text
    assert "backend onnxruntime:" in text
    assert json.loads(succeed("info", demo_bundle, "--json").stdout)["model"]["autoencoder"]["codebook_size"] == 1024


def test_needs_no_torch(demo_bundle: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxscript', 'yaml', 'safetensors']))\n"
        "from trt_vqgan.cli import main\n"
        f"main(['generate', '-o', {str(tmp_path / 'a.png')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert read_image(tmp_path / "a.png").shape == (SIDE, SIDE, 3)


def test_export_without_torch_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from trt_vqgan.cli import main\n"
        f"main(['export', 'run', '-o', {str(tmp_path / 'b')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'trt-vqgan[export]'" in done.stderr
    assert done.stderr.count("\n") == 1
