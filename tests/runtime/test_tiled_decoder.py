"""Tiles against the whole decode, with a session that keeps what is local apart from what is global."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import TILED_DEMO_PSNR_DB
from trt_vqgan.errors import Cancelled, ShapeError
from trt_vqgan.runtime import tiled_decoder
from trt_vqgan.runtime.autoencoder import Autoencoder, to_uint8
from trt_vqgan.runtime.onnx_networks import OnnxNetworks
from trt_vqgan.runtime.pipeline import load
from trt_vqgan.runtime.psnr import psnr_db
from trt_vqgan.runtime.tiled_decoder import (
    check_tiles,
    decode_tiled,
    default_frame,
    default_overlap,
    default_tile,
    framed,
    spans,
)

FACTOR = 8


@pytest.fixture
def demo(demo_bundle: Path) -> Iterator[Autoencoder]:
    with load(demo_bundle, threads=2) as pipe:
        spec = pipe.spec.autoencoder
    codebook = np.load(demo_bundle / "codebook.npy")
    networks = OnnxNetworks(spec, codebook=codebook, encoder=None, decoder=demo_bundle / "decoder.onnx", threads=2)
    opened = Autoencoder(spec, networks=networks, codebook=codebook)
    yield opened
    opened.close()


@pytest.fixture
def local(demo: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> Autoencoder:
    """A decoder that looks at nothing but each code, so that tiles are exact."""

    def pixels(grid: np.ndarray) -> np.ndarray:
        shades = np.stack([grid / 512 - 1, 1 - grid / 512, np.sin(grid)]).astype(np.float32)
        return shades.repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)

    monkeypatch.setattr(demo.networks, "pixels", pixels)
    return demo


def random_codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 1024, shape)


def smooth_codes(height: int, width: int) -> np.ndarray:
    """Codes (1, h, w) of a grid without small structure: one code a quadrant."""
    corner = random_codes(2, 2)
    return corner.repeat(-(-height // 2), axis=0)[:height].repeat(-(-width // 2), axis=1)[None, :, :width]


@given(length=st.integers(1, 300), tile=st.integers(1, 70), data=st.data())
def test_spans_cover_a_side_evenly(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    found = spans(length, tile=tile, overlap=overlap)
    sizes = [stop - start for start, stop in found]
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert max(sizes) <= tile
    assert max(sizes) - min(sizes) <= 1
    assert all(before[1] - after[0] == overlap for before, after in itertools.pairwise(found))
    fewer = len(found) - 1
    assert fewer == 0 or fewer * tile - (fewer - 1) * overlap < length, "as few as cover it"


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), tile=st.integers(3, 20), more=st.integers(0, 30))
def test_a_frame_shows_the_tile_and_the_rest_in_order(height: int, width: int, tile: int, more: int) -> None:
    grid = np.arange(height * width).reshape(height, width)
    frame = tile + more
    for rows in spans(height, tile=tile, overlap=tile // 2):
        for columns in spans(width, tile=tile, overlap=tile // 2):
            shown, top, left = framed(grid, rows, columns, frame=frame)
            assert shown.shape == (min(height, frame), min(width, frame))
            own = shown[top : top + rows[1] - rows[0], left : left + columns[1] - columns[0]]
            np.testing.assert_array_equal(own, grid[slice(*rows), slice(*columns)])
            if max(height, width) <= frame:
                np.testing.assert_array_equal(shown, grid)
    np.testing.assert_array_equal(grid, np.arange(height * width).reshape(height, width))


def test_thinning_takes_the_middles() -> None:
    grid = np.arange(9)[None].repeat(9, axis=0)
    shown, top, left = framed(grid, (0, 1), (8, 9), frame=3)
    np.testing.assert_array_equal(shown, [[1, 4, 8], [1, 4, 7], [1, 4, 7]])
    assert (top, left) == (0, 2)


@pytest.mark.parametrize("frame", [None, 0, 16, 21])
@pytest.mark.parametrize(("tile", "overlap"), [(4, 0), (4, 1), (4, 2), (5, 2), (7, 3), (16, 8), (1, 0)])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 17), (17, 5), (33, 12)])
def test_what_is_local_is_exact(
    local: Autoencoder, tile: int, overlap: int, size: tuple[int, int], frame: int | None
) -> None:
    codes = random_codes(2, *size)
    found = decode_tiled(local, codes, tile=tile, overlap=overlap, frame=frame)
    # equal pixels blended with each other may round to the next float32, and then truncate to the level below
    assert np.abs(found.astype(int) - local.decode(codes)).max() <= 1
    assert (found != local.decode(codes)).mean() < 1e-3


def test_a_fade_is_linear_and_truncates_once(demo: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one shade each: the rows and columns between them are the mean by distance."""
    shades = iter([-0.5, 0.25, 0.75, 0.0])

    def flat(grid: np.ndarray) -> np.ndarray:
        return np.full((3, grid.shape[0] * FACTOR, grid.shape[1] * FACTOR), next(shades), dtype=np.float32)

    monkeypatch.setattr(demo, "decode_pixels", flat)
    found = decode_tiled(demo, random_codes(1, 6, 6), tile=4, overlap=2, frame=0)[0]
    weight = np.zeros(48)
    weight[16:32] = (np.arange(16) + 0.5) / 16
    weight[32:] = 1
    across = np.stack([1 - weight, weight])
    wanted = np.einsum("ay,bx,ab->yx", across, across, np.array([[-0.5, 0.25], [0.75, 0.0]]))
    exact = (wanted + 1) * 127.5
    assert np.abs(found[:, :, 0] - (exact - 0.5)).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])


def test_a_hard_seam_is_seen_by_the_test_above(demo: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: without fading, neighbouring pixels differ by a tile's whole shade."""
    shades = itertools.cycle([-0.5, 0.5])

    def flat(grid: np.ndarray) -> np.ndarray:
        return np.full((3, grid.shape[0] * FACTOR, grid.shape[1] * FACTOR), next(shades), dtype=np.float32)

    monkeypatch.setattr(demo, "decode_pixels", flat)

    def steepest() -> int:
        image = decode_tiled(demo, random_codes(1, 4, 6), tile=4, overlap=2, frame=0)[0].astype(int)
        return int(np.abs(np.diff(image, axis=1)).max())

    assert steepest() <= 128 / 16 + 1
    monkeypatch.setattr(tiled_decoder, "_fade_in", lambda below, above, axis: None)
    assert steepest() >= 127


def test_one_tile_has_the_bits_of_the_whole(demo: Autoencoder) -> None:
    codes = random_codes(2, 6, 9)
    np.testing.assert_array_equal(decode_tiled(demo, codes, tile=9, overlap=4, frame=0), demo.decode(codes))
    np.testing.assert_array_equal(decode_tiled(demo, codes, tile=4, overlap=2, frame=9), demo.decode(codes))


def test_pixels_are_what_decode_truncates(demo: Autoencoder) -> None:
    codes = random_codes(1, 5, 4)
    pixels = demo.decode_pixels(codes[0])
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(pixels), demo.decode(codes)[0])


def test_the_demo_in_tiles_is_near_the_whole(demo: Autoencoder) -> None:
    codes = smooth_codes(20, 32)
    whole = demo.decode(codes)[0]
    inside = decode_tiled(demo, codes, tile=12, overlap=4, frame=18)[0]
    assert psnr_db(whole, inside) >= TILED_DEMO_PSNR_DB
    assert spans(20, tile=20, overlap=8) == [(0, 20)]
    assert spans(32, tile=20, overlap=8) == [(0, 20), (12, 32)]
    alone = decode_tiled(demo, codes, tile=20, overlap=8, frame=0)[0]
    assert psnr_db(whole, alone) < psnr_db(whole, inside), "the frame is worth it, even against larger tiles"


def test_tiles_are_told_and_may_stop_it(local: Autoencoder) -> None:
    told: list[Any] = []
    decode_tiled(local, random_codes(2, 4, 10), tile=4, overlap=1, frame=5, on_tile=lambda *done: told.append(done))
    assert told == [(i, 6) for i in range(1, 7)]

    def stop(done: int, total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        decode_tiled(local, random_codes(1, 4, 10), tile=4, overlap=1, frame=5, on_tile=stop)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-3, 0), (4, 3), (4, -1), (1, 1), (9, 1)])
def test_wrong_tiles(local: Autoencoder, tile: int, overlap: int) -> None:
    with pytest.raises(ShapeError, match="tile|overlap|frame"):
        decode_tiled(local, random_codes(1, 4, 4), tile=tile, overlap=overlap, frame=8)


@pytest.mark.parametrize("codes", [np.zeros((4, 4), np.int64), np.zeros((1, 0, 4), np.int64), np.full((1, 2, 2), 1024)])
def test_wrong_codes(local: Autoencoder, codes: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="decode"):
        decode_tiled(local, codes, tile=4, overlap=1)


def test_defaults_follow_the_training_grid(demo: Autoencoder) -> None:
    side = demo.spec.latent_size
    sizes = {
        "tile": default_tile(demo.spec),
        "overlap": default_overlap(demo.spec),
        "frame": default_frame(demo.spec),
    }
    assert sizes == {"tile": side * 3 // 2, "overlap": side // 2, "frame": 3 * side}
    check_tiles(**sizes)
