"""Animations: their frames come back, and a path that can't be written is told at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from trt_vqgan.errors import ImageError, ShapeError
from trt_vqgan.runtime.animation import LAST_FRAME_MS, writing


def frames(count: int) -> list[np.ndarray]:
    return [np.full((12, 20, 3), 40 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize("ending", ["gif", "webp", "GIF"])
def test_frames_come_back(tmp_path: Path, ending: str) -> None:
    if ending == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    path = tmp_path / f"a.{ending}"
    with writing(path, frames=4, height=12, width=20) as animation:
        for frame in frames(4):
            animation.add(frame)
        assert len(animation) == 4
        assert not path.exists(), "the file appears when it is whole"
    with Image.open(path) as image:
        assert image.n_frames == 4
        for i, frame in enumerate(frames(4)):
            image.seek(i)
            image.load()
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
        assert image.info["duration"] == LAST_FRAME_MS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_path_that_cannot_be_written_is_told_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.gif", tmp_path / "folder.gif"):
        (tmp_path / "folder.gif").mkdir(exist_ok=True)
        with pytest.raises(OSError), writing(path, frames=1, height=12, width=20):
            pytest.fail("the work began")
    with pytest.raises(ImageError, match=r"ends in .gif or .webp, found '.mp4'"):
        writing(tmp_path / "a.mp4", frames=1, height=12, width=20).__enter__()
    with pytest.raises(ImageError, match="'no ending'|found no ending"):
        writing(tmp_path / "a", frames=1, height=12, width=20).__enter__()
    with pytest.raises(ImageError, match="larger --preview"):
        writing(tmp_path / "a.gif", frames=10_000, height=1024, width=1024).__enter__()


def test_nothing_stays_of_work_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a.gif", frames=2, height=12, width=20) as animation:
        animation.add(frames(1)[0])
        raise ZeroDivisionError
    with pytest.raises(ShapeError, match="the frames before have"):  # noqa: SIM117
        with writing(tmp_path / "a.gif", frames=2, height=12, width=20) as animation:
            animation.add(frames(1)[0])
            animation.add(np.zeros((12, 21, 3), np.uint8))
    assert not list(tmp_path.iterdir())
