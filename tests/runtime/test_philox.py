"""Philox4x32-10 against the known answers that its authors published, and the counter that the sampler makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime import philox
from trt_vqgan.runtime.philox import grid_position, philox4x32, random64

WORD = st.integers(0, 2**32 - 1)

# Counter, key, result of "philox4x32 10" in Random123's kat_vectors.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def check_known_answers() -> None:
    for counter, key, answer in KNOWN_ANSWERS:
        low, high = words(key)
        found = philox4x32(np.array(words(counter), dtype=np.uint64)[:, None], (low, high))
        assert found[:, 0].tolist() == words(answer)


def one_counter(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The ten rounds on Python integers, written from the paper's formula."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ low, second % 2**32, (first >> 32) ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def test_known_answers() -> None:
    check_known_answers()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ROUNDS", 9),
        ("_KEY_STEPS", (0xBB67AE85, 0x9E3779B9)),
        ("_MULTIPLIERS", np.array([[0xCD9E8D57], [0xD2511F53]], dtype=np.uint64)),
        ("_MASK", np.array(2**31 - 1, dtype=np.uint64)),
    ],
)
def test_known_answers_catch_a_wrong_constant(monkeypatch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    monkeypatch.setattr(philox, name, wrong)
    with pytest.raises(AssertionError):
        check_known_answers()


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=9), st.tuples(WORD, WORD))
def test_columns_are_the_scalar_formula(counters: list[tuple[int, ...]], key: tuple[int, int]) -> None:
    found = philox4x32(np.array(counters, dtype=np.uint64).T, key)
    assert found.T.tolist() == [one_counter(list(counter), key) for counter in counters]


@given(WORD, WORD, st.integers(0, 2**64 - 1))
def test_random64_takes_position_then_picture_and_the_low_key_first(picture: int, position: int, seed: int) -> None:
    found = random64(seed, pictures=np.array([picture]), positions=np.array([position]))
    first, second, *_ = one_counter([position, picture, 0, 0], (seed % 2**32, seed >> 32))
    assert found.dtype == np.uint64
    assert found.tolist() == [first << 32 | second]


def test_input_is_not_changed() -> None:
    counter = np.arange(12, dtype=np.uint64).reshape(4, 3)
    philox4x32(counter, (1, 2))
    assert counter.tolist() == np.arange(12).reshape(4, 3).tolist()


def test_grid_position_is_the_same_for_every_grid() -> None:
    rows, columns = np.meshgrid(np.arange(64), np.arange(80), indexing="ij")
    positions = grid_position(rows, columns)
    assert len(np.unique(positions)) == 64 * 80
    assert positions[3, 7] == grid_position(3, 7) == 3 * 65536 + 7
    assert grid_position(65535, 65535) == 2**32 - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: random64(-1, pictures=one, positions=one), "seed: found -1"),
        (lambda one: random64(2**64, pictures=one, positions=one), "seed: found"),
        (lambda one: random64(0, pictures=one - 1, positions=one), "pictures: found -1"),
        (lambda one: random64(0, pictures=one, positions=one + 2**32), "positions: found"),
        (lambda one: random64(0, pictures=one, positions=np.zeros(2, np.int64)), r"\(1,\) and \(2,\)"),
        (lambda one: random64(0, pictures=one[None], positions=one[None]), r"wanted the same \(B,\)"),
        (lambda one: random64(0, pictures=one.astype(np.float64), positions=one), "pictures: found float64"),
    ],
)
def test_refuses_what_no_counter_holds(call: Callable[[npt.NDArray[np.int64]], object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call(np.zeros(1, dtype=np.int64))
