"""The vectorised sampler: equal to the reference in every bit, and its draws follow its distribution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import GOLDEN_PROBABILITY_ABSOLUTE
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference import sample_codes as reference
from trt_vqgan.runtime import code_weights, sampler
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling, draw_codes, sample_codes, sampling_probabilities

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

TOP_PS = (0.0, 1e-7, 0.5, 0.92, 0.99999999, 1.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call, and whether rows count as wide, so that small rows take every path."""

    logits: FloatArray
    sampling: Sampling
    seed: int
    wide: bool
    gather: bool


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 4))
    size = draw(st.one_of(st.integers(1, 8), st.integers(1, 300)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.sampled_from([-30, -3, 0, 0.5, 1.5, 4, 30]))
    logits = rng.normal(0, scale, (batch, size))
    match draw(st.sampled_from(["as it is", "fp16", "levels", "constant"])):
        case "fp16":
            logits = np.clip(logits, -6e4, 6e4).astype(np.float16).astype(np.float64)
        case "levels":
            logits = np.round(logits / scale * 2) * scale  # has -0 too
        case "constant":
            logits[:] = scale
    lively = rng.integers(0, size, batch)
    match draw(st.sampled_from(["none", "some", "all but one"])):
        case "some":
            excluded = rng.random((batch, size)) < 0.6
        case "all but one":
            excluded = np.ones((batch, size), dtype=bool)
        case _:
            excluded = np.zeros((batch, size), dtype=bool)
    excluded[np.arange(batch), lively] = False
    logits[excluded] = -np.inf
    return Case(
        logits=logits.astype(np.float32),
        sampling=Sampling(
            temperature=draw(st.sampled_from([1e-30, 0.01, 0.7, 1.0, 1.3, 50.0, 1e30])),
            top_k=draw(st.one_of(st.none(), st.integers(1, size + 1))),
            top_p=draw(st.one_of(st.sampled_from(TOP_PS), st.floats(0, 1))),
        ),
        seed=draw(st.integers(0, 2**64 - 1)),
        wide=draw(st.booleans()),
        gather=draw(st.booleans()),
    )


def check_case(case: Case) -> None:
    """Compare codes and probabilities of all rows with the reference, bit for bit."""
    batch = len(case.logits)
    pictures, positions = np.arange(batch) * 3 + 1, np.arange(batch) * 65536 + 5
    filters = case.sampling
    settings_ = {"temperature": filters.temperature, "top_k": filters.top_k, "top_p": filters.top_p}
    with pytest.MonkeyPatch.context() as patch:
        if case.wide:
            patch.setattr(code_weights, "SORT_WIDTH", 0)
            patch.setattr(sampler, "DRAW_WIDTH", 0)
            patch.setattr(sampler, "DRAW_BLOCK", 7)
        patch.setattr(code_weights, "GATHER_FRACTION", 1 if case.gather else 10**6)
        codes = sample_codes(case.logits, filters, seed=case.seed, pictures=pictures, positions=positions)
        probabilities = sampling_probabilities(case.logits, **settings_)  # type: ignore[arg-type]
    assert codes.dtype == np.int64
    assert codes.shape == (batch,)
    for row, logits in enumerate(case.logits):
        weights = reference.kept_weights(logits, **settings_)  # type: ignore[arg-type]
        assert probabilities[row].tolist() == [weight / sum(weights) for weight in weights]
        random = scalar_random(case.seed, picture=int(pictures[row]), position=int(positions[row]))
        assert codes[row] == reference.draw(weights, random)


def scalar_random(seed: int, *, picture: int, position: int) -> int:
    """Philox on Python integers."""
    a, b, c, d, low, high = position, picture, 0, 0, seed % 2**32, seed >> 32
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ low, second % 2**32, (first >> 32) ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return a << 32 | b


def fixed_cases() -> Iterator[Case]:
    """Small cases in which every planted fault shows."""
    rng = np.random.default_rng(4)
    for size in (1, 5, 40, 130):
        levels = np.round(rng.normal(0, 2, (3, size))).astype(np.float32)
        plain = rng.normal(0, 2, (3, size)).astype(np.float32)
        for logits in (levels, plain):
            for top_k, top_p in ((None, 1.0), (3, 1.0), (size // 2 + 1, 0.7), (None, 0.5), (None, 0.0)):
                for wide in (False, True):
                    for gather in (False, True):
                        sampling = Sampling(temperature=1.1, top_k=top_k, top_p=top_p)
                        yield Case(logits=logits, sampling=sampling, seed=2**40 + size, wide=wide, gather=gather)


@settings(max_examples=300, deadline=None)
@given(any_case())
def test_equals_the_reference(case: Case) -> None:
    check_case(case)


def test_equals_the_reference_on_fixed_cases() -> None:
    for case in fixed_cases():
        check_case(case)


def test_rows_that_are_wide_without_being_told() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (2, 5000)).astype(np.float32)
    logits[1] = np.round(logits[1])
    for top_k, top_p in ((None, 1.0), (None, 0.92), (600, 0.92), (600, 1.0), (4000, 0.9)):
        check_case(Case(logits=logits, sampling=Sampling(top_k=top_k, top_p=top_p), seed=9, wide=False, gather=False))


def drop_ties(logits: FloatArray, top_k: int) -> tuple[FloatArray, FloatArray]:
    rank = logits.shape[1] - top_k
    parted = np.partition(logits, rank, axis=1)
    lowest = parted[:, rank, None]
    return parted[:, rank:], lowest  # ties are drawn, but their weight isn't in the total


def drop_the_kth(logits: FloatArray, top_k: int) -> tuple[FloatArray, FloatArray]:
    return LARGEST(logits, max(1, top_k - 1))


def move_the_kth(logits: FloatArray, top_k: int) -> tuple[FloatArray, FloatArray]:
    values, kth = LARGEST(logits, top_k)
    return values, kth[::-1].copy()


def forget_surplus(*args: object, **options: object) -> tuple[FloatArray, Int64Array]:
    cut, surplus = CUT(*args, **options)  # type: ignore[arg-type]
    return cut, surplus * 0


def one_more_surplus(*args: object, **options: object) -> tuple[FloatArray, Int64Array]:
    cut, surplus = CUT(*args, **options)  # type: ignore[arg-type]
    return cut, surplus + (surplus > 0)


def target_reached(random: npt.NDArray[np.uint64], total: Int64Array) -> Int64Array:
    return TARGETS(random, total) - 1  # what `>=` for `>` amounts to


def swapped_words(seed: int, *, pictures: Int64Array, positions: Int64Array) -> npt.NDArray[np.uint64]:
    return random64(seed, pictures=positions, positions=pictures)


def low_word_first(seed: int, *, pictures: Int64Array, positions: Int64Array) -> npt.NDArray[np.uint64]:
    bits = random64(seed, pictures=pictures, positions=positions)
    return (bits >> np.uint64(32)) | (bits << np.uint64(32))


def rounded_weights(values: FloatArray, maximum: FloatArray, *, rate: np.float32) -> npt.NDArray[np.int32]:
    exact = 2.0**30 * np.exp2((values - maximum).astype(np.float64) * rate)
    return exact.astype(np.int32)


CUT = code_weights._cut
LARGEST = code_weights._largest
TARGETS = sampler._targets


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (code_weights, "_largest", drop_ties),
        (code_weights, "_largest", drop_the_kth),
        (code_weights, "_largest", move_the_kth),
        (code_weights, "_cut", forget_surplus),
        (code_weights, "_cut", one_more_surplus),
        (code_weights, "integer_weights", rounded_weights),
        (sampler, "random64", swapped_words),
        (sampler, "random64", low_word_first),
    ],
)
def test_planted_faults_are_caught(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, fault: Callable[..., object]
) -> None:
    monkeypatch.setattr(module, name, fault)
    with pytest.raises(AssertionError):
        for case in fixed_cases():
            check_case(case)


def check_edges() -> None:
    """Draw with random numbers on both sides of the edges between four equal codes, where `>` and `>=` differ."""
    logits = np.zeros((4, 4), dtype=np.float32)
    edges = np.arange(4, dtype=np.uint64) << np.uint64(62)
    assert draw_codes(logits, Sampling(), random=edges).tolist() == [0, 1, 2, 3]
    assert draw_codes(logits, Sampling(), random=edges + np.uint64(2**62 - 1)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("width", [0, 2048])
def test_target_on_an_edge_belongs_to_the_next_code(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(sampler, "DRAW_WIDTH", width)
    check_edges()
    monkeypatch.setattr(sampler, "_targets", target_reached)
    with pytest.raises(AssertionError):
        check_edges()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=50, top_p=0.9), Sampling(top_p=0.9, temperature=1.4)])
def test_a_row_does_not_depend_on_the_rows_beside_it(sampling: Sampling) -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, (33, 3000)).astype(np.float32)
    logits[::3] = np.round(logits[::3])  # rows with ties make the arrays of all rows wider
    logits[5, 1:] = -np.inf
    pictures, positions = np.arange(33) // 4, np.arange(33) * 65536
    together = sample_codes(logits, sampling, seed=1, pictures=pictures, positions=positions)
    order = rng.permutation(33)
    shuffled = sample_codes(logits[order], sampling, seed=1, pictures=pictures[order], positions=positions[order])
    assert shuffled.tolist() == together[order].tolist()
    distribution = sampling_probabilities(logits, top_k=sampling.top_k, top_p=sampling.top_p)
    for row in range(33):
        one = slice(row, row + 1)
        alone = sample_codes(logits[one], sampling, seed=1, pictures=pictures[one], positions=positions[one])
        assert alone.tolist() == together[one].tolist()
        by_itself = sampling_probabilities(logits[row], top_k=sampling.top_k, top_p=sampling.top_p)
        assert by_itself.tobytes() == distribution[row].tobytes()


def test_threads_and_strided_logits_give_the_same_codes() -> None:
    rng = np.random.default_rng(7)
    steps = rng.normal(0, 3, (8, 5, 2000)).astype(np.float32)
    sampling, rows = Sampling(top_k=100, top_p=0.9), np.arange(8)

    def step(index: int) -> bytes:
        codes = sample_codes(steps[:, index], sampling, seed=3, pictures=rows, positions=rows * 0 + index)
        return codes.tobytes()

    def contiguous(index: int) -> bytes:
        logits = np.ascontiguousarray(steps[:, index])
        return sample_codes(logits, sampling, seed=3, pictures=rows, positions=rows * 0 + index).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(step, list(range(5)) * 8)) == [contiguous(index) for index in range(5)] * 8


def chi_square_is_plausible(codes: Int64Array, probabilities: npt.NDArray[np.float64]) -> bool:
    """Whether the counts lie within five standard deviations of what the distribution leads to expect."""
    counts = np.bincount(codes, minlength=len(probabilities))
    possible = probabilities > 0
    if counts[~possible].any():
        return False
    expected = probabilities[possible] * len(codes)
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    # Variance of Pearson's statistic for these probabilities, not only for large counts.
    variance = 2 * freedom + float((1 / expected).sum())
    return abs(statistic - freedom) < 5 * math.sqrt(variance)


CHI_SQUARE_SETTINGS = [
    Sampling(),
    Sampling(temperature=1.7, top_k=20),
    Sampling(temperature=0.8, top_k=30, top_p=0.9),
    Sampling(top_p=0.6),
]


@pytest.mark.parametrize("sampling", CHI_SQUARE_SETTINGS)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    n = 20_000
    logits = np.random.default_rng(8).normal(0, 1.2, 60).astype(np.float32)
    probabilities = sampling_probabilities(
        logits, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
    )
    rows = np.broadcast_to(logits, (n, 60))
    codes = sample_codes(rows, sampling, seed=11, pictures=np.arange(n), positions=np.full(n, grid_position(4, 9)))
    assert chi_square_is_plausible(codes, probabilities)
    # Along positions of one picture as well as along pictures.
    codes = sample_codes(rows, sampling, seed=11, pictures=np.zeros(n, dtype=np.int64), positions=np.arange(n))
    assert chi_square_is_plausible(codes, probabilities)


def test_neighbouring_positions_are_independent() -> None:
    n, sampling = 40_000, Sampling()
    logits = np.random.default_rng(9).normal(0, 1, 6).astype(np.float32)
    rows = np.broadcast_to(logits, (n, 6))
    pictures = np.arange(n)
    first = sample_codes(rows, sampling, seed=0, pictures=pictures, positions=np.full(n, grid_position(0, 0)))
    second = sample_codes(rows, sampling, seed=0, pictures=pictures, positions=np.full(n, grid_position(0, 1)))
    other_seed = sample_codes(rows, sampling, seed=1, pictures=pictures, positions=np.full(n, grid_position(0, 0)))
    one = sampling_probabilities(logits)
    both = np.outer(one, one).ravel()
    assert chi_square_is_plausible(first * 6 + second, both)
    assert chi_square_is_plausible(first * 6 + other_seed, both)
    assert not chi_square_is_plausible(first * 6 + first, both)


def test_chi_square_catches_a_wrong_distribution() -> None:
    n = 20_000
    logits = np.random.default_rng(8).normal(0, 1.2, 60).astype(np.float32)
    rows, pictures, positions = np.broadcast_to(logits, (n, 60)), np.arange(n), np.zeros(n, dtype=np.int64)
    warmer = sample_codes(rows, Sampling(temperature=1.05), seed=11, pictures=pictures, positions=positions)
    assert not chi_square_is_plausible(warmer, sampling_probabilities(logits))
    unfiltered = sample_codes(rows, Sampling(), seed=11, pictures=pictures, positions=positions)
    assert not chi_square_is_plausible(unfiltered, sampling_probabilities(logits, top_k=59))


def check_golden(shared: Path, probabilities_of: Callable[..., npt.NDArray[np.float64]]) -> int:
    compared = 0
    for path in sorted((shared / "golden").glob("*/expected.npz")):
        with np.load(path) as arrays:
            for name in arrays.files:
                found = re.fullmatch(r"probs_T([\d.]+)_k(\d+)_p([\d.]+)", name)
                if found:
                    temperature, top_k, top_p = float(found[1]), int(found[2]), float(found[3])
                    ours = probabilities_of(arrays["logits"][:, 0], temperature=temperature, top_k=top_k, top_p=top_p)
                    np.testing.assert_allclose(ours, arrays[name], rtol=0, atol=GOLDEN_PROBABILITY_ABSOLUTE)
                    compared += 1
    return compared


def test_golden_probabilities(shared_dir: Path) -> None:
    assert check_golden(shared_dir, sampling_probabilities) >= 18


def test_golden_check_can_fail(shared_dir: Path) -> None:
    def one_code_fewer(logits: FloatArray, *, temperature: float, top_k: int, top_p: float) -> npt.NDArray[np.float64]:
        return sampling_probabilities(logits, temperature=temperature, top_k=top_k - 1, top_p=top_p)

    with pytest.raises(AssertionError):
        check_golden(shared_dir, one_code_fewer)


def test_greedy_takes_the_lowest_index_and_no_random_number() -> None:
    logits = np.array([[1, 3, 3, 0], [-0.0, 0.0, -1, -np.inf], [-np.inf, -np.inf, -np.inf, -7]], dtype=np.float32)
    rows = np.arange(3)
    for seed in range(5):
        codes = sample_codes(logits, Sampling(greedy=True), seed=seed, pictures=rows, positions=rows)
        assert codes.tolist() == [reference.greedy_code(row) for row in logits] == [1, 0, 3]


def test_probabilities_take_any_leading_shape() -> None:
    logits = np.random.default_rng(10).normal(0, 2, (2, 3, 4, 50))
    found = sampling_probabilities(logits, top_k=7)
    assert found.shape == logits.shape
    assert found.dtype == np.float64
    assert ((found > 0).sum(axis=-1) == 7).all()
    assert found[1, 2, 3].tolist() == sampling_probabilities(logits[1, 2, 3], top_k=7).tolist()
    assert sampling_probabilities([0.0, 0.0]).tolist() == [0.5, 0.5]
    assert sampling_probabilities(np.zeros((2, 0, 5))).shape == (2, 0, 5)


def test_no_rows_give_no_codes() -> None:
    none = np.zeros(0, dtype=np.int64)
    for sampling in (Sampling(), Sampling(greedy=True)):
        codes = sample_codes(np.zeros((0, 4), np.float32), sampling, seed=0, pictures=none, positions=none)
        assert codes.shape == (0,)
        assert codes.dtype == np.int64


def test_logits_are_not_changed() -> None:
    logits = np.random.default_rng(11).normal(0, 2, (3, 400)).astype(np.float32)
    before = logits.copy()
    rows = np.arange(3)
    for sampling in (Sampling(), Sampling(top_k=5, top_p=0.5), Sampling(top_p=0.5), Sampling(greedy=True)):
        sample_codes(logits, sampling, seed=0, pictures=rows, positions=rows)
    sampling_probabilities(logits, top_p=0.3)
    assert logits.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"temperature": -1.0}, "temperature: found -1.0"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"temperature": float("inf")}, "temperature: found inf"),
        ({"temperature": 1e-40}, "float32"),
        ({"temperature": 1e40}, "float32"),
        ({"top_k": 0}, "top_k: found 0"),
        ({"top_k": -3}, "top_k: found -3"),
        ({"top_k": 2.5}, "top_k: found 2.5"),
        ({"top_k": float("nan")}, "top_k: found nan"),
        ({"top_p": -0.1}, "top_p: found -0.1"),
        ({"top_p": 1.5}, "top_p: found 1.5"),
        ({"top_p": float("nan")}, "top_p: found nan"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Sampling(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        sampling_probabilities(np.zeros(4), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.nan, "row 1: found NaN"), (np.inf, r"row 1: found \+inf"), (-np.inf, "row 1: found only -inf")],
)
@pytest.mark.parametrize("greedy", [False, True])
def test_refuses_logits_that_say_nothing(bad: float, message: str, greedy: bool) -> None:
    logits = np.zeros((3, 40), dtype=np.float32)
    logits[1, slice(None) if bad == -np.inf else 17] = bad
    rows = np.arange(3)
    with pytest.raises(ShapeError, match=message):
        sample_codes(logits, Sampling(greedy=greedy), seed=0, pictures=rows, positions=rows)
    with pytest.raises(ShapeError, match=message):
        sampling_probabilities(logits)


@pytest.mark.parametrize(
    ("logits", "rows", "message"),
    [
        (np.zeros((2, 4)), 2, "found float64"),
        (np.zeros(4, np.float32), 4, r"wanted float32 \(B, V\)"),
        (np.zeros((2, 4), np.float32), 3, r"wanted \(2,\)"),
        (np.zeros((2, 0), np.float32), 2, "0 codes in a row"),
    ],
)
def test_refuses_wrong_shapes(logits: FloatArray, rows: int, message: str) -> None:
    numbers = np.arange(rows)
    with pytest.raises(ShapeError, match=message):
        sample_codes(logits, Sampling(), seed=0, pictures=numbers, positions=numbers)


def test_refuses_a_single_number_and_signed_random_numbers() -> None:
    with pytest.raises(ShapeError, match="single number"):
        sampling_probabilities(1.0)
    with pytest.raises(ShapeError, match="wanted uint64"):
        draw_codes(np.zeros((1, 4), np.float32), Sampling(), random=np.zeros(1, np.int64))
