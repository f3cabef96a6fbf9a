"""The scores of shifted windows against the plain rule, and that a shift is seen to cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.tolerances import NLL_FP32
from trt_vqgan.benchmarks.window_shift import measure, nats_under_exact_windows
from trt_vqgan.errors import SpecError
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.runtime.images import read_image
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.window_plan import local_position

SIDE = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("run"), kind="class")


@pytest.fixture(scope="module")
def pipe(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with trt_vqgan.load(trt_vqgan.export_checkpoint(run, tmp_path_factory.mktemp("out") / "bundle")) as opened:
        yield opened


def test_each_code_is_scored_by_its_own_window(pipe: Pipeline, run: Path) -> None:
    checkpoint = open_checkpoint(run)
    gpt = load_gpt(checkpoint.spec.transformer, checkpoint.weights)
    codes = np.random.default_rng(0).integers(0, 48, (10, 11))
    found = nats_under_exact_windows(pipe, codes, 3)
    for i, j in ((0, 0), (2, 7), (5, 5), (9, 10), (6, 1)):
        down, across = local_position(i, 10, SIDE), local_position(j, 11, SIDE)
        window = codes[i - down :, j - across :][:SIDE, :SIDE].reshape(-1)
        place = down * SIDE + across
        with torch.no_grad():
            logits = gpt(torch.from_numpy(np.concatenate([[3], window[:place]])[None]))[0, -1]
        wanted = -torch.log_softmax(logits.double(), 0)[int(codes[i, j])]
        assert abs(found[i, j] - float(wanted)) < NLL_FP32


def test_the_table_and_the_pictures(pipe: Pipeline, tmp_path: Path) -> None:
    rows = measure(pipe, side=12, picture=tmp_path / "strip.png", shifts=(1, 4))
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1", "4"]
    assert rows[2].split("|")[3].strip() == "+0.000"
    assert float(rows[3].split("|")[5]) < float(rows[2].split("|")[5])
    assert read_image(tmp_path / "strip.png").shape == (5 * 48 + 6 * 2, 2 * 48 + 3 * 2, 3)


def test_models_without_classes(tmp_path: Path) -> None:
    bundle = trt_vqgan.export_checkpoint(make_checkpoint(tmp_path / "run", kind="unconditional"), tmp_path / "bundle")
    with trt_vqgan.load(bundle) as opened, pytest.raises(SpecError, match="no class model"):
        measure(opened, side=9)
