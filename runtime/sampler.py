"""Draws codes from logits: temperature, top-k, top-p, greedy; vectorised over the batch.

The native backend draws the same codes in C++, `trt_vqgan.runtime.native.sampler`. The definition of both, bit by bit,
is `trt_vqgan.kernels.reference.sample_codes`; a row's code depends on its logits, the sampling, the seed and its
(picture, position) and on nothing else. Nothing is kept between calls, so any number of threads may sample at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference.sample_codes import exponent_rate
from trt_vqgan.runtime.code_weights import CodeWeights, code_weights
from trt_vqgan.runtime.philox import random64

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

MAX_CODEBOOK_SIZE = 1 << 22
"""Up to this many weights of 2**30 have sums that float64 holds exactly."""

DRAW_WIDTH = 2048
"""Wider rows are drawn from in two steps: first a block, then an entry of it."""

DRAW_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a code is chosen from its logits.

    Attributes
    ----------
    temperature : divides the logits; above 0, finite. From about 1e-38 to 3e38, the range of float32.
    top_k : keep the k largest logits and all that equal the k-th; at least 1, more than V keeps all. None: keep all.
    top_p : of those, by falling likelihood, keep a code while the probability of the codes before it is at most this;
        from 0 (only the most likely) to 1 (all).
    greedy : take the largest logit, the lowest index on ties; the other settings have no effect.

    Raises
    ------
    ShapeError
        If a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ShapeError(
                f"temperature: found {self.temperature}, wanted a finite number above 0; for the most likely code of "
                "each use greedy"
            )
        rate = exponent_rate(self.temperature)
        if not 0 < rate < np.inf:
            raise ShapeError(
                f"temperature: found {self.temperature}, which float32 can't hold, wanted about 1e-38 to 3e38; for the "
                "most likely code of each use greedy"
            )
        if self.top_k is not None and (self.top_k < 1 or not isinstance(self.top_k, int | np.integer)):
            raise ShapeError(
                f"top_k: found {self.top_k}, wanted a whole number of at least 1, or None to keep all codes"
            )
        if not 0 <= self.top_p <= 1:
            raise ShapeError(f"top_p: found {self.top_p}, wanted a number from 0 to 1")


def sample_codes(
    logits: FloatArray, sampling: Sampling, *, seed: int, pictures: Int64Array, positions: Int64Array
) -> Int64Array:
    """Return one code for each row of logits.

    Parameters
    ----------
    logits : float32 (B, V); -inf excludes a code.
    sampling : how to choose.
    seed : from 0 to 2**64 - 1.
    pictures : int64 (B,), number of the picture that each row belongs to, below 2**32.
    positions : int64 (B,), `trt_vqgan.runtime.philox.grid_position` of the code that each row predicts.

    Returns
    -------
    int64 (B,), from 0 to V - 1.

    Raises
    ------
    ShapeError
        If a shape or dtype is wrong, a number is out of range, a logit is NaN or +inf, or a row is -inf throughout.
    """
    if pictures.shape != logits.shape[:1] or positions.shape != logits.shape[:1]:
        raise ShapeError(
            f"pictures and positions: found shapes {pictures.shape} and {positions.shape}, wanted ({len(logits)},), "
            "one for each row of logits"
        )
    if sampling.greedy:  # ten rounds would take longer than the argmax
        random: UInt64Array = np.zeros(len(logits), dtype=np.uint64)
    else:
        random = random64(seed, pictures=pictures, positions=positions)
    return draw_codes(logits, sampling, random=random)


def draw_codes(logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
    """Return one code for each row of logits, as `sample_codes`, from random numbers made before.

    For a loop over positions: `trt_vqgan.runtime.philox.random64` of many positions at once takes hardly longer than of
    one.

    Parameters
    ----------
    logits : float32 (B, V); -inf excludes a code.
    sampling : how to choose.
    random : uint64 (B,), uniform; not used where the choice is greedy.

    Returns
    -------
    int64 (B,), from 0 to V - 1.

    Raises
    ------
    ShapeError
        As `sample_codes`.
    """
    check_inputs(logits, random)
    maximum = row_maximum(logits)
    if sampling.greedy or not len(logits):
        greedy: Int64Array = np.argmax(logits, axis=1)
        return greedy
    logits = np.ascontiguousarray(logits)
    return draw_from(_weights(logits, maximum, sampling), random, codebook_size=logits.shape[1])


def sampling_probabilities(
    logits: npt.ArrayLike, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Float64Array:
    """Return the distribution that `sample_codes` draws from.

    Parameters
    ----------
    logits : (..., V), taken as float32; -inf excludes a code.
    temperature, top_k, top_p : as in `Sampling`.

    Returns
    -------
    float64, the shape of ``logits``: the integer weight of each code over their sum, so a code that top-k or top-p
    drops, or that is less likely than about 2**-30 of the most likely, has exactly zero.

    Raises
    ------
    ShapeError
        As `Sampling` and `sample_codes`.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    array = np.asarray(logits, dtype=np.float32)
    if array.ndim == 0:
        raise ShapeError("logits: found a single number, wanted an array (..., V)")
    rows = np.ascontiguousarray(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])
    maximum = row_maximum(rows)
    if not len(rows):
        return np.empty(array.shape, dtype=np.float64)
    drawn = _weights(rows, maximum, sampling)
    probabilities = drawn.weights / drawn.weights.sum(axis=1, dtype=np.int64)[:, None]
    if drawn.places is not None:
        spread = np.zeros(rows.size + 1)  # the last one takes the padding
        spread[drawn.places] = probabilities
        probabilities = spread[:-1]
    result: Float64Array = probabilities.reshape(array.shape)
    return result


def check_inputs(logits: FloatArray, random: UInt64Array) -> None:
    """Refuse shapes and dtypes that `draw_codes` doesn't take."""
    if logits.ndim != 2 or logits.dtype != np.float32:
        raise ShapeError(f"logits: found {logits.dtype} {logits.shape}, wanted float32 (B, V)")
    if random.shape != logits.shape[:1] or random.dtype != np.uint64:
        raise ShapeError(f"random: found {random.dtype} {random.shape}, wanted uint64 ({len(logits)},)")


def row_maximum(logits: FloatArray) -> FloatArray:
    """Return the largest logit of each row, (B, 1); refuse rows from which nothing can be drawn."""
    codebook_size = logits.shape[1]
    if not 1 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ShapeError(f"logits: found {codebook_size} codes in a row, wanted 1 to {MAX_CODEBOOK_SIZE}")
    maximum: FloatArray = logits.max(axis=1, keepdims=True)  # NaN where any logit of the row is
    usable = np.isfinite(maximum)
    if not usable.all():
        row = int(np.argmin(usable))
        found = float(maximum[row, 0])
        what = "only -inf" if found < 0 else "NaN" if math.isnan(found) else "+inf"
        raise ShapeError(
            f"logits of row {row}: found {what}, wanted finite numbers, or -inf for codes that are excluded and at "
            "least one finite number"
        )
    return maximum


def _weights(logits: FloatArray, maximum: FloatArray, sampling: Sampling) -> CodeWeights:
    rate = exponent_rate(sampling.temperature)
    return code_weights(logits, maximum, rate=rate, top_k=sampling.top_k, top_p=sampling.top_p)


def draw_from(drawn: CodeWeights, random: UInt64Array, *, codebook_size: int) -> Int64Array:
    """Return the first code int64 (B,) of each row whose cumulative weight exceeds ``random * total / 2**64``.

    Parameters
    ----------
    drawn : weights of B rows.
    random : uint64 (B,), uniform.
    codebook_size : width of the logits that the weights were made of.
    """
    weights = drawn.weights
    batch, width = weights.shape
    rows = np.arange(batch)
    column: Int64Array
    if width <= DRAW_WIDTH:
        cumulative = np.cumsum(weights, axis=1, dtype=np.int64)
        column = np.count_nonzero(cumulative <= _targets(random, cumulative[:, -1]), axis=1)
    else:
        blocks = np.cumsum(np.add.reduceat(weights, np.arange(0, width, DRAW_BLOCK), axis=1, dtype=np.int64), axis=1)
        target = _targets(random, blocks[:, -1])
        block = np.count_nonzero(blocks <= target, axis=1)
        before = np.where(block > 0, blocks[rows, block - 1], 0)[:, None]
        # The last block may reach past the row: there its last entry stands again, behind the one that is found.
        columns = np.minimum(block[:, None] * DRAW_BLOCK + np.arange(DRAW_BLOCK), width - 1)
        cumulative = np.cumsum(weights[rows[:, None], columns], axis=1, dtype=np.int64)
        column = block * DRAW_BLOCK + np.count_nonzero(cumulative <= target - before, axis=1)
    if drawn.places is None:
        return column
    column = drawn.places[rows, column] - rows * codebook_size
    return column


def _targets(random: UInt64Array, total: Int64Array) -> Int64Array:
    """Return ``floor(random * total / 2**64)``, int64 (B, 1); Python's integers hold the 128-bit products."""
    return np.array([[r * t >> 64] for r, t in zip(random.tolist(), total.tolist(), strict=True)], dtype=np.int64)
