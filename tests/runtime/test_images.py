"""Image files: every mode comes back as RGB, damaged and huge ones are refused, written ones are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trt_vqgan.errors import ImageError, ShapeError
from trt_vqgan.runtime.contact_sheet import GAP_PIXELS, ContactSheet
from trt_vqgan.runtime.image_files import InMemoryFile
from trt_vqgan.runtime.image_npz import image_npz
from trt_vqgan.runtime.images import MAX_PIXELS, encode_png, pad_to_multiple, read_image, write_png
from trt_vqgan.runtime.png_metadata import KEYWORD, GenerationRecord, read_generation_record
from trt_vqgan.runtime.psnr import psnr_db

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
ORIENTATION_TAG = 0x0112


def test_png_roundtrip(tmp_path: Path) -> None:
    write_png(tmp_path / "new" / "a.png", PICTURE)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png"), PICTURE)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_is_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 100, 255]


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(PICTURE, -1))


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="no image file"):
        read_image(tmp_path / "text.png")
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="64 x 64 = 4096 pixels, at most 4095"):
        read_image(tmp_path / "a.png", max_pixels=4095)


def test_a_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="pixels"):
        read_image(tmp_path / "large.png")
    Image.new("1", (4 * side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="scale it down"):
        read_image(tmp_path / "bomb.png")


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    for wrong in (PICTURE.astype(np.float32), PICTURE[:, :, 0], PICTURE[:, :, :2], PICTURE[:0]):
        with pytest.raises(ShapeError):
            write_png(tmp_path / "a.png", wrong)
    assert not list(tmp_path.iterdir())


def test_padding_is_cropped_away() -> None:
    padded = pad_to_multiple(PICTURE, 4)
    assert padded.shape == (8, 8, 3)
    assert np.array_equal(padded[:5, :7], PICTURE)
    assert np.array_equal(padded[7, 7], PICTURE[4, 6])
    assert pad_to_multiple(padded, 4).shape == padded.shape


def test_psnr() -> None:
    assert psnr_db(PICTURE, PICTURE) == float("inf")
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr_db(black, grey) == pytest.approx(20 * np.log10(255 / 51))
    with pytest.raises(ShapeError):
        psnr_db(black, grey[:2])


def test_contact_sheet() -> None:
    sheet = ContactSheet(5, 5, 7, columns=2)
    for index in range(5):
        sheet.put(index, PICTURE)
    assert sheet.image.shape == (3 * (5 + GAP_PIXELS) + GAP_PIXELS, 2 * (7 + GAP_PIXELS) + GAP_PIXELS, 3)
    top, left = GAP_PIXELS + 2 * (5 + GAP_PIXELS), GAP_PIXELS
    assert np.array_equal(sheet.image[top : top + 5, left : left + 7], PICTURE)
    assert (sheet.image[top:, left + 7 :] == 255).all()
    with pytest.raises(ImageError, match="contact sheet"):
        ContactSheet(1 << 20, 16, 16)


def test_npz_holds_pictures_and_labels(tmp_path: Path) -> None:
    with image_npz(tmp_path / "a.npz", count=2, height=5, width=7, labels=[3, 1]) as add:
        add(PICTURE)
        add(PICTURE[::-1])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["arr_0"], np.stack([PICTURE, PICTURE[::-1]]))
        assert arrays["arr_1"].dtype == np.int64
        assert arrays["arr_1"].tolist() == [3, 1]


@pytest.mark.parametrize("pictures", [[], [PICTURE] * 3, [PICTURE[:2]] * 2])
def test_npz_is_whole_or_not_there(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    with pytest.raises(ShapeError), image_npz(tmp_path / "a.npz", count=2, height=5, width=7) as add:
        for picture in pictures:
            add(picture)
    with pytest.raises(KeyboardInterrupt), image_npz(tmp_path / "a.npz", count=2, height=5, width=7) as add:
        add(PICTURE)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


RECORD = GenerationRecord(
    version="0.1.0",
    bundle_id="0123456789abcdef",
    seed=2**63,
    picture=5,
    temperature=0.9,
    top_k=16384,
    top_p=0.95,
    greedy=False,
    codes=((1, 2), (3, 4)),
    class_id=1,
    class_name="é",
)


def test_record_roundtrip(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PICTURE, RECORD.to_text_chunk())
    assert read_generation_record(tmp_path / "a.png") == RECORD


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', "[" * 100_000])
def test_damaged_records_are_refused(tmp_path: Path, text: str) -> None:
    write_png(tmp_path / "a.png", PICTURE, {KEYWORD: text})
    with pytest.raises(ImageError):
        read_generation_record(tmp_path / "a.png")


def test_files_without_a_record_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PICTURE)
    with pytest.raises(ImageError, match="text chunk"):
        read_generation_record(tmp_path / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="can't be read as a PNG"):
        read_generation_record(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="no such file"):
        read_generation_record(tmp_path / "b.png")


def test_a_file_in_memory_is_read_as_one_on_disk(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = encode_png(picture)
    np.testing.assert_array_equal(read_image(InMemoryFile("init", data)), picture)
    with pytest.raises(ImageError, match="init: can't be read as an image"):
        read_image(InMemoryFile("init", data[:60]))
    with pytest.raises(ImageError, match="init: has 7 x 5 = 35 pixels, at most 34"):
        read_image(InMemoryFile("init", data), max_pixels=34)


def test_formats_that_nobody_sends_are_not_opened_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "picture.ppm"
    Image.new("RGB", (4, 4)).save(path)
    assert read_image(path).shape == (4, 4, 3)
    with pytest.raises(ImageError, match="wanted PNG, JPEG, WebP, GIF or BMP"):
        read_image(InMemoryFile("init", path.read_bytes()))
