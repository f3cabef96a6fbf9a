"""Other runtimes beside ours on a tiny model: the same codes from the same weights, where they are installed."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from tests.benchmarks.tiny_models import tiny_context
from trt_vqgan.benchmarks.peers.__main__ import PEERS, measure
from trt_vqgan.benchmarks.peers.drawing import SteppingDrawer
from trt_vqgan.benchmarks.peers.weights import fused_qkv
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.rows import OURS, TORCH
from trt_vqgan.benchmarks.shapes import model_of_shape

SPEC = model_of_shape(1, width=64)


class Counting:
    """A runtime whose likeliest token is the position plus the row plus the token before."""

    def start(self, prefix: np.ndarray) -> None:
        self.rows = len(prefix)

    def step(self, tokens: np.ndarray, position: int) -> np.ndarray:
        wanted = tokens + position + np.arange(self.rows)
        return np.eye(100, dtype=np.float32)[wanted]


def test_codes_are_fed_back() -> None:
    codes = SteppingDrawer("counting", "fp32", Counting(), start=1).draw(2, 4)
    assert codes.tolist() == [[1, 2, 4, 7], [2, 4, 7, 11]]


def test_queries_keys_and_values_are_stacked_in_this_order() -> None:
    weights = RandomWeights(SPEC)
    matrix, bias = fused_qkv(weights, 0)
    assert matrix.shape == (192, 64)
    for place, part in enumerate(("query", "key", "value")):
        name = f"transformer.blocks.0.attn.{part}"
        assert (matrix[64 * place : 64 * (place + 1)] == weights[f"{name}.weight"]).all()
        assert (bias[64 * place : 64 * (place + 1)] == weights[f"{name}.bias"]).all()


@pytest.mark.parametrize("peer", [None, *PEERS])
def test_rows_agree_with_torch(peer: str | None) -> None:
    if peer is not None and importlib.util.find_spec(peer) is None:
        pytest.skip(f"{PEERS[peer]} isn't installed: pip install 'trt-vqgan[peers]'")
    with tiny_context() as context:
        rows = measure(SPEC, name="1x64", context=context, precisions=("fp32",), peers=() if peer is None else (peer,))
    runners = {row.runner.partition(" ")[0] for row in rows}
    assert {TORCH, OURS} <= runners
    assert len(runners - {TORCH, OURS, "native"}) == (peer is not None)
    for row in rows:
        assert row.latency is not None
        if row.runner != TORCH:
            assert row.parity is not None
            assert row.parity.ok, row
            if row.precision in ("fp32", "float32"):
                assert row.parity.value == 1


def test_a_peer_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with tiny_context() as context:
        telling = dataclasses.replace(context, say=said.append)
        measure(SPEC, name="1x64", context=telling, precisions=("fp32",), peers=("openvino",))
    assert "left out: OpenVINO isn't installed" in said
