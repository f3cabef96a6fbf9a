"""Random numbers as a function of (seed, picture, position): Philox4x32 with ten rounds.

A counter-based generator has no state, so a code's random number depends neither on what was drawn before it nor on
what runs beside it.

Notes
-----
Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11, section 5.3. (NumPy's own Philox is the
4x64 variant, whose numbers differ.)
"""

from __future__ import annotations

from typing import overload

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

ROUNDS = 10
GRID_STRIDE = 1 << 16
"""Distance between the positions of two grid rows: the same code has the same position in grids of every width."""

_WORD = (1 << 32) - 1
_SHIFT = np.array(32, dtype=np.uint64)  # arrays of no dimension: NumPy scalars would be converted at each use
_MASK = np.array(_WORD, dtype=np.uint64)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: UInt64Array, key: tuple[int, int]) -> UInt64Array:
    """Return the four random words of each counter.

    Parameters
    ----------
    counter : uint64 (4, B), each word below 2**32.
    key : two words below 2**32.

    Returns
    -------
    uint64 (4, B), each word below 2**32.
    """
    # A round multiplies words 0 and 2 and mixes the products into words 1 and 3, so each pair is one (2, B) array.
    multiplied, mixed = counter[0::2], counter[1::2]
    for key_pair in _round_keys(key):
        product = (_MULTIPLIERS * multiplied)[::-1]
        multiplied, mixed = (product >> _SHIFT) ^ mixed ^ key_pair, product & _MASK
    words = np.empty_like(counter)
    words[0::2], words[1::2] = multiplied, mixed
    return words


def random64(seed: int, *, pictures: Int64Array, positions: Int64Array) -> UInt64Array:
    """Return 64 uniform random bits for each (picture, position).

    Parameters
    ----------
    seed : from 0 to 2**64 - 1; its low and high words are the key.
    pictures, positions : int64 (B,), from 0 to 2**32 - 1. The counter is (position, picture, 0, 0).

    Returns
    -------
    uint64 (B,): the first word above the second.

    Raises
    ------
    ShapeError
        If a number is out of range or the two arrays don't have the same one-dimensional shape.
    """
    if not 0 <= seed < 1 << 64:
        raise ShapeError(f"seed: found {seed}, wanted a whole number from 0 to 2**64 - 1")
    if pictures.ndim != 1 or pictures.shape != positions.shape:
        raise ShapeError(
            f"pictures and positions: found shapes {pictures.shape} and {positions.shape}, wanted the same (B,)"
        )
    counter = np.zeros((4, len(positions)), dtype=np.uint64)
    counter[0] = _words("positions", positions)
    counter[1] = _words("pictures", pictures)
    words = philox4x32(counter, (seed & _WORD, seed >> 32))
    bits: UInt64Array = words[0] << _SHIFT | words[1]
    return bits


@overload
def grid_position(row: int, column: int) -> int: ...
@overload
def grid_position(row: Int64Array, column: Int64Array) -> Int64Array: ...
def grid_position(row: int | Int64Array, column: int | Int64Array) -> int | Int64Array:
    """Return the position of the code at (row, column) of the latent grid, the same for every size of grid.

    Both from 0 to 65535; arrays broadcast.
    """
    return row * GRID_STRIDE + column


def _round_keys(key: tuple[int, int]) -> UInt64Array:
    """Return the keys of all rounds, uint64 (ROUNDS, 2, 1)."""
    pairs = [[(word + i * step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True)] for i in range(ROUNDS)]
    return np.array(pairs, dtype=np.uint64)[:, :, None]


def _words(name: str, numbers: Int64Array) -> UInt64Array:
    if numbers.dtype.kind not in "iu":
        raise ShapeError(f"{name}: found {numbers.dtype}, wanted whole numbers (int64)")
    if numbers.size and (numbers.min() < 0 or numbers.max() > _WORD):
        raise ShapeError(f"{name}: found {numbers.min()} to {numbers.max()}, wanted 0 to {_WORD}")
    return numbers.astype(np.uint64)
