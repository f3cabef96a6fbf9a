"""Files of codes: what isn't one, and tiles for pictures through the codes."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from trt_vqgan.cli import main
from trt_vqgan.cli.conditions import read_codes
from trt_vqgan.errors import ConditionError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def single() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 2, 2), np.int64))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no .npz, wanted one with an array 'codes'"),
        (b"a text file\n", "is no .npz"),
        (pickle.dumps([1, 2]), "is no .npz"),
        (single(), "is a single array"),
        (packed(codes=np.array([{1: 2}], dtype=object)), "it holds Python objects"),
        (packed(other=np.zeros(2)), "holds other, wanted codes"),
    ],
)
def test_what_is_no_npz(tmp_path: Path, demo_bundle: Path, content: bytes, message: str) -> None:
    path = tmp_path / "codes.npz"
    path.write_bytes(content)
    done = run("decode", demo_bundle, path, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert message in done.output
    assert "pickle" not in done.output


def test_flipped_bytes_give_codes_or_one_error(tmp_path: Path) -> None:
    content = packed(codes=np.arange(64).reshape(1, 8, 8), bundle_id=np.array("0" * 16))
    chance = random.Random(0)
    refused = []
    path = tmp_path / "codes.npz"
    for _ in range(400):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            read_codes(path, ("codes",))
        except ConditionError as error:
            refused.append(str(error))
    assert refused
    assert all(message.startswith(f"{path}: ") for message in refused)


def test_reconstruct_takes_tiles(tmp_path: Path, demo_bundle: Path) -> None:
    """A picture of one tile has the same pixels, a larger one nearly."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 200, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((1600, 96), Image.Resampling.BICUBIC))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide[:, :128]).save(tmp_path / "small.png")
    for name in ("wide", "small"):
        for options in ([], ["--decode-tiles"]):
            out = tmp_path / f"{name}-{len(options)}.png"
            done = run("reconstruct", demo_bundle, tmp_path / f"{name}.png", "-o", out, *options)
            assert done.exit_code == 0, done.output
    wide_ones, small_ones = (
        [np.asarray(Image.open(tmp_path / f"{name}-{i}.png")).astype(int) for i in (0, 1)] for name in ("wide", "small")
    )
    np.testing.assert_array_equal(*small_ones)
    difference = np.abs(wide_ones[0] - wide_ones[1])
    assert difference.any(), "the option changed nothing"
    assert difference.mean() < 8
