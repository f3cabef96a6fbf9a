"""The reference of the sampler: against float64 softmax, and pinned bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import CODE_WEIGHT_RELATIVE, PROBABILITY_ABSOLUTE, TOP_P_BOUNDARY
from trt_vqgan.kernels.reference import sample_codes
from trt_vqgan.kernels.reference.sample_codes import (
    draw,
    exponent_rate,
    greedy_code,
    integer_weight,
    kept_weights,
    sample_code,
)

FloatArray = npt.NDArray[np.float32]
KeptWeights = Callable[..., list[int]]
IntegerWeight = Callable[[np.float32, np.float32, np.float32], int]

INFINITY = float("inf")


def row(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def softmax_after_filters(
    logits: FloatArray, temperature: float, top_k: int, top_p: float
) -> tuple[npt.NDArray[np.float64], float]:
    """An independent float64 form, by masks; and how near top-p's cut any entry comes, as a probability."""
    scaled = logits.astype(np.float64) / temperature
    scaled[scaled < np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1]] = -np.inf
    order = np.argsort(-scaled, kind="stable")
    likely = np.exp(scaled - scaled.max())[order]
    likely /= likely.sum()
    before = np.concatenate([[0.0], np.cumsum(likely)[:-1]])
    scaled[order[(before > top_p) & (np.arange(len(order)) > 0)]] = -np.inf
    probabilities = np.exp(scaled - scaled.max())
    margin = np.abs(before - np.float32(top_p))[1:].min(initial=1.0)
    return probabilities / probabilities.sum(), float(margin)


def cases() -> list[tuple[FloatArray, float, int, float]]:
    """Rows with and without ties, -inf, spread wide and narrow, under several settings."""
    rng = np.random.default_rng(20)
    found = []
    for size in (1, 2, 3, 17, 64, 129):
        for scale in (0.1, 3.0, 50.0):
            plain = rng.normal(0, scale, size).astype(np.float32)
            tied = (np.round(plain / scale * 2) * scale).astype(np.float32)
            holed = np.where(rng.random(size) < 0.5, plain, -np.inf).astype(np.float32)
            holed[rng.integers(size)] = scale
            for logits in (plain, tied, holed):
                for temperature, top_k, top_p in ((1.0, 5, 1.0), (0.7, 20, 0.9), (1.3, 300, 0.5), (1.0, 1, 0.92)):
                    found.append((logits, temperature, top_k, top_p))
    return found


def check_distribution(weigh: KeptWeights) -> None:
    """Compare ``weigh`` with float64 where no entry is too near the cut for rounding to decide."""
    compared = 0
    for logits, temperature, top_k, top_p in cases():
        wanted, margin = softmax_after_filters(logits, temperature, top_k, top_p)
        if margin < TOP_P_BOUNDARY:
            continue
        weights = np.array(weigh(logits, temperature=temperature, top_k=top_k, top_p=top_p))
        np.testing.assert_allclose(weights / weights.sum(), wanted, rtol=0, atol=PROBABILITY_ABSOLUTE)
        compared += 1
    assert compared > 150


def weight_digest(weigh: IntegerWeight) -> str:
    """Hash of the weights of logits at odd distances from several maxima."""
    digest = hashlib.sha256()
    for maximum in (0.0, 7.3, -1234.5):
        for temperature in (1.0, 0.7, 13.0):
            rate = exponent_rate(temperature)
            top = np.float32(maximum)
            for step in range(400):
                logit = np.float32(maximum - (step * 0.0713) * temperature)
                digest.update(weigh(logit, top, rate).to_bytes(4, "little"))
    return digest.hexdigest()


def fused_weight(logit: np.float32, maximum: np.float32, rate: np.float32) -> int:
    """What a compiler that contracts the polynomial to fused multiply-adds would make of it."""
    exponent = max(np.float32(np.float32(logit - maximum) * rate), np.float32(-40))
    whole = np.rint(exponent)
    fraction = np.float64(exponent - whole)
    power = np.float32(sample_codes.POLYNOMIAL[0])
    for coefficient in sample_codes.POLYNOMIAL[1:]:
        power = np.float32(np.float64(power) * fraction + np.float64(np.float32(coefficient)))
    mantissa, shift = int(power * np.float32(2**24)), int(whole) + 6
    return mantissa << shift if shift >= 0 else mantissa >> -shift


# The contract with every other implementation: a change here changes the pictures that seeds stand for.
WEIGHT_DIGEST = "5015db9cc64c3ed20be56ccd7c63f51a6d949dd10cdc38351c503f28c2f19bd2"


def test_weights_are_these_bits() -> None:
    assert weight_digest(integer_weight) == WEIGHT_DIGEST


def test_fused_multiply_add_is_caught() -> None:
    assert weight_digest(fused_weight) != WEIGHT_DIGEST


@given(st.floats(0.0, 21.0, width=32))
def test_weight_is_the_exponential(distance: float) -> None:
    found = integer_weight(np.float32(-distance), np.float32(0), exponent_rate(1.0))
    wanted = 2.0**30 * np.exp(-distance)
    assert abs(found - wanted) <= wanted * CODE_WEIGHT_RELATIVE + 1


def test_weight_at_the_ends() -> None:
    rate = exponent_rate(1.0)
    assert integer_weight(np.float32(5), np.float32(5), rate) == 2**30
    assert integer_weight(np.float32(-INFINITY), np.float32(5), rate) == 0
    assert integer_weight(np.float32(-3e38), np.float32(3e38), rate) == 0
    assert integer_weight(np.float32(-22), np.float32(0), rate) == 0
    assert integer_weight(np.float32(-20.5), np.float32(0), rate) > 0


def test_agrees_with_float64() -> None:
    check_distribution(kept_weights)


def drops_one_tie(logits: FloatArray, *, temperature: float, top_k: int, top_p: float) -> list[int]:
    """Exactly k survivors: the fault of a top-k that sorts and cuts."""
    order = np.argsort(-logits, kind="stable")
    cut = np.where(np.isin(np.arange(len(logits)), order[:top_k]), logits, -np.inf).astype(np.float32)
    return kept_weights(cut, temperature=temperature, top_k=top_k, top_p=top_p)


def top_p_first(logits: FloatArray, *, temperature: float, top_k: int, top_p: float) -> list[int]:
    nucleus = np.array(kept_weights(logits, temperature=temperature, top_p=top_p)) > 0
    return kept_weights(
        np.where(nucleus, logits, -np.inf).astype(np.float32), temperature=temperature, top_k=top_k, top_p=1.0
    )


def temperature_after_top_p(logits: FloatArray, *, temperature: float, top_k: int, top_p: float) -> list[int]:
    nucleus = np.array(kept_weights(logits, temperature=1.0, top_k=top_k, top_p=top_p)) > 0
    return kept_weights(np.where(nucleus, logits, -np.inf).astype(np.float32), temperature=temperature)


def one_entry_more(logits: FloatArray, *, temperature: float, top_k: int, top_p: float) -> list[int]:
    return kept_weights(logits, temperature=temperature, top_k=top_k + 1, top_p=top_p)


@pytest.mark.parametrize("fault", [drops_one_tie, top_p_first, temperature_after_top_p, one_entry_more])
def test_wrong_filters_are_caught(fault: KeptWeights) -> None:
    with pytest.raises(AssertionError):
        check_distribution(fault)


def test_ties_at_the_kth_value_stay() -> None:
    weights = kept_weights(row(1, 3, 2, 2, 2, 0), temperature=1.0, top_k=2)
    assert [weight > 0 for weight in weights] == [False, True, True, True, True, False]


def test_ties_across_the_top_p_cut_stay_by_index() -> None:
    # Four equal codes: the third has half of the weight before it, which is not more than top_p.
    weights = kept_weights(row(2, 2, 2, 2), temperature=1.0, top_p=0.5)
    assert [weight > 0 for weight in weights] == [True, True, True, False]


def test_negative_zero_is_zero() -> None:
    assert kept_weights(row(-0.0, 0.0, -1), temperature=1.0, top_k=1) == [2**30, 2**30, 0]
    assert kept_weights(row(0.0, -0.0, -1), temperature=1.0, top_p=0.0) == [2**30, 0, 0]
    assert kept_weights(row(-0.0, 0.0, -1), temperature=1.0, top_p=0.0) == [2**30, 0, 0]


def test_most_likely_stays_with_top_p_zero() -> None:
    assert kept_weights(row(1, 5, -2), temperature=3.0, top_p=0.0) == [0, 2**30, 0]


def test_all_but_one_excluded() -> None:
    logits = np.full(9, -np.inf, dtype=np.float32)
    logits[6] = -1e30
    for random in (0, 2**63, 2**64 - 1):
        assert sample_code(logits, random=random, temperature=0.5, top_k=4, top_p=0.9) == 6


def test_draw_gives_each_code_its_share() -> None:
    weights = [0, 3, 0, 1, 4]
    eighth = 2**64 // 8
    drawn = [draw(weights, i * eighth) for i in range(8)]
    assert drawn == [1, 1, 1, 3, 4, 4, 4, 4]
    # The last random number of each eighth belongs to it too: `>`, not `>=`, at the target.
    assert [draw(weights, (i + 1) * eighth - 1) for i in range(8)] == drawn


def test_greedy_takes_the_lowest_index() -> None:
    assert greedy_code(row(1, 4, 4, -INFINITY)) == 1
    assert greedy_code(row(-0.0, 0.0)) == 0
