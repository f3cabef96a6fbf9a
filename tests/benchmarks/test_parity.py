"""The checkers that stand in every row: what they measure, and that they can fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trt_vqgan.benchmarks.parity import (
    GREY_LEVELS_FP32,
    LOGITS_FP32,
    compare_codes,
    compare_logits,
    compare_pixels,
    judge,
    mean_kl_nats,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 5, 40)).astype(np.float32)


def test_kl_is_torchs() -> None:
    other = LOGITS + RNG.standard_normal(LOGITS.shape).astype(np.float32)
    p, q = torch.from_numpy(LOGITS).double().flatten(0, 1), torch.from_numpy(other).double().flatten(0, 1)
    wanted = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean").item()
    assert mean_kl_nats(LOGITS, other) == pytest.approx(wanted, rel=1e-9)


def test_kl_is_zero_only_for_the_same_distribution() -> None:
    assert mean_kl_nats(LOGITS, LOGITS + np.float32(7)) == pytest.approx(0, abs=1e-6)  # softmax forgets a shift
    assert mean_kl_nats(LOGITS, LOGITS[:, ::-1]) > 0.1


def test_kl_of_excluded_codes() -> None:
    excluded = LOGITS.copy()
    excluded[..., 0] = -np.inf
    assert math.isfinite(mean_kl_nats(excluded, LOGITS))
    assert mean_kl_nats(LOGITS, excluded) == math.inf


def test_equal_logits_pass() -> None:
    for precision in ("fp32", "int8"):
        parity = compare_logits(LOGITS, LOGITS.copy(), precision=precision)
        assert parity.ok
        assert parity.value == pytest.approx(0, abs=1e-12)


def test_one_wrong_logit_breaks_fp32() -> None:
    wrong = LOGITS.copy()
    wrong[2, 4, 39] += np.float32(2 * LOGITS_FP32)
    parity = compare_logits(wrong, LOGITS, precision="fp32")
    assert not parity.ok
    assert parity.value == pytest.approx(2 * LOGITS_FP32, rel=1e-2)


def test_logits_of_another_position_break_int8() -> None:
    assert not compare_logits(np.roll(LOGITS, 1, axis=1), LOGITS, precision="int8").ok


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nan_breaks(precision: str) -> None:
    wrong = LOGITS.copy()
    wrong[0, 0, 0] = np.nan
    assert not compare_logits(wrong, LOGITS, precision=precision).ok


def test_pixels() -> None:
    wanted = RNG.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    near, far = wanted.copy(), wanted.copy()
    near[0, 0, 0, 0] ^= 1
    far[0, 0, 0, 0] ^= 2
    assert compare_pixels(wanted, wanted, precision="fp32").value == 0
    assert compare_pixels(near, wanted, precision="fp32").value == GREY_LEVELS_FP32
    assert compare_pixels(near, wanted, precision="fp32").ok
    assert not compare_pixels(far, wanted, precision="fp32").ok


def test_psnr_of_pixels() -> None:
    wanted = np.full((1, 8, 8, 3), 100, dtype=np.uint8)
    off = compare_pixels(wanted + np.uint8(2), wanted, precision="fp16 weights")
    assert off.value == pytest.approx(10 * math.log10(255**2 / 4))
    assert off.ok
    assert not compare_pixels(wanted + np.uint8(50), wanted, precision="fp16 weights").ok
    assert math.isfinite(compare_pixels(wanted, wanted, precision="fp16 weights").value)  # JSON has no infinity


def test_codes() -> None:
    wanted = np.arange(100)
    found = wanted.copy()
    found[:2] = -1
    assert compare_codes(found, wanted, limit=0.98).ok
    assert not compare_codes(found, wanted, limit=0.99).ok
    assert compare_codes(found, wanted, limit=0.99).value == pytest.approx(0.98)


def test_shapes_that_numpy_would_broadcast_are_no_comparison() -> None:
    with pytest.raises(AssertionError):
        compare_logits(LOGITS, LOGITS[:1], precision="fp32")


def test_limits_have_a_direction() -> None:
    assert judge("", 1.0, limit=2.0).ok
    assert not judge("", 1.0, limit=2.0, at_least=True).ok
    assert not judge("", math.nan, limit=2.0).ok
    assert not judge("", math.nan, limit=2.0, at_least=True).ok
