"""Integer weights of a batch of logits after temperature, top-k and top-p.

The same numbers as `trt_vqgan.kernels.reference.sample_codes`, in whole-array operations. A row's weights don't depend
on the rows beside it: the steps are either element by element or sums of integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.reference.sample_codes import FRACTION_BITS, LOWEST_EXPONENT, POLYNOMIAL

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

GATHER_FRACTION = 8
"""Entries are gathered into a narrow array where at most one in this many can be drawn."""

SORT_WIDTH = 2048
"""Rows up to this wide are sorted whole for top-p; wider ones are first narrowed to one bin of values."""

BINS_PER_HALVING = 32
"""Bins that a wide row's values are counted in for each factor of two in likelihood."""

BLOCK_ELEMENTS = 1 << 14
"""Elements that the polynomial takes at once, so that its temporaries stay in the processor's cache."""

ZERO_EXPONENT = 32.0
"""Entries of which the largest is 2**32 times as likely weigh zero for certain."""

_COEFFICIENTS = tuple(np.float32(coefficient) for coefficient in POLYNOMIAL)
_EXPONENT_BIAS = np.int32(127 + FRACTION_BITS)


@dataclass(frozen=True, kw_only=True)
class CodeWeights:
    """Weights of the entries that can be drawn.

    Attributes
    ----------
    weights : int32 (B, K), at most 2**30, each row in index order; every row has one above zero.
    places : int64 (B, K), where each weight belongs in the flattened (B, V) logits, B * V for padding (of weight zero);
        None where K is V and each weight is in its own place.
    """

    weights: IntArray
    places: Int64Array | None


def code_weights(
    logits: FloatArray, maximum: FloatArray, *, rate: np.float32, top_k: int | None, top_p: float
) -> CodeWeights:
    """Return what each code weighs in the draw.

    Top-k and top-p keep, in each row, all entries above some value, the cut, and of those equal to it the first few.
    That is found from values alone, which sort faster than pairs with an index; the indices of what is kept come last.

    Parameters
    ----------
    logits : float32 (B, V), C-contiguous, neither NaN nor +inf; B at least 1.
    maximum : float32 (B, 1), the largest logit of each row; finite.
    rate : log2(e) / temperature; finite, above zero.
    top_k : at least 1, or None.
    top_p : from 0 to 1.
    """
    with np.errstate(all="ignore"):
        # A float below the rounded difference lies below the exact one too, so only weights of zero are lost here.
        cut = maximum - np.float32(ZERO_EXPONENT) / rate
    pool, weights, surplus = logits, None, None
    if top_k is not None and top_k < logits.shape[1]:
        pool, kth = _largest(logits, top_k)
        cut = np.maximum(cut, kth)
    share = float(np.float32(top_p))
    if share < 1.0:
        # The lowest value that top-p keeps weighs more than zero and is in the pool, so it is no lower than the cut.
        if pool.shape[1] <= SORT_WIDTH:
            cut, surplus = _cut(pool, maximum, rate=rate, share=share)
        else:
            pool_weights = integer_weights(pool, maximum, rate=rate)
            cut, surplus = _cut_of_wide_rows(pool, pool_weights, maximum, rate=rate, share=share)
            weights = pool_weights if pool is logits else None

    kept = logits >= cut
    values, places = logits, None
    if weights is None and np.count_nonzero(kept) * GATHER_FRACTION <= kept.size:
        values, places = _gather(logits, kept)
        weights = integer_weights(values, maximum, rate=rate)
    else:
        weights = integer_weights(logits, maximum, rate=rate) if weights is None else weights
        weights *= kept
    if surplus is not None:
        for row in np.flatnonzero(surplus):
            weights[row, np.flatnonzero(values[row] == cut[row])[-surplus[row] :]] = 0
    return CodeWeights(weights=weights, places=places)


def integer_weights(values: FloatArray, maximum: FloatArray, *, rate: np.float32) -> IntArray:
    """Return ``floor(2**30 * 2**((values - maximum) * rate))``, int32 (B, K), in every bit as the reference does.

    Parameters
    ----------
    values : float32 (B, K), at most ``maximum``; may be -inf.
    maximum : float32 (B, 1), finite.
    """
    weights = np.empty(values.shape, dtype=np.int32)
    rows = max(1, BLOCK_ELEMENTS // max(1, values.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, len(values), rows):
            block = slice(start, start + rows)
            fraction = values[block] - maximum[block]
            fraction *= rate
            np.maximum(fraction, np.float32(LOWEST_EXPONENT), out=fraction)
            whole = np.rint(fraction)
            fraction -= whole
            power = fraction * _COEFFICIENTS[0]
            power += _COEFFICIENTS[1]
            for coefficient in _COEFFICIENTS[2:]:
                power *= fraction
                power += coefficient
            # 2**(whole + 30) put together from its bits; the product is exact and the conversion truncates it, which is
            # what the reference's shifts do.
            scale = whole.astype(np.int32)
            scale += _EXPONENT_BIAS
            scale <<= 23
            power *= scale.view(np.float32)
            weights[block] = power
    return weights


def _largest(logits: FloatArray, top_k: int) -> tuple[FloatArray, FloatArray]:
    """Return the values of each row that are at least its k-th largest, and the k-th largest, float32 (B, 1).

    The values are in no order; rows in which fewer tie with the k-th are padded with -inf.
    """
    rank = logits.shape[1] - top_k
    parted = np.partition(logits, rank, axis=1)
    kth = parted[:, rank, None].copy()  # not a view: the second partition moves entries
    reached = logits >= kth
    if np.count_nonzero(reached) == len(logits) * top_k:
        return parted[:, rank:], kth
    rank = logits.shape[1] - int(np.count_nonzero(reached, axis=1).max())
    parted.partition(rank, axis=1)
    values = parted[:, rank:]
    return np.where(values >= kth, values, np.float32(-np.inf)), kth


def _cut(
    values: FloatArray,
    maximum: FloatArray,
    *,
    rate: np.float32,
    share: float,
    budget: Int64Array | None = None,
) -> tuple[FloatArray, Int64Array]:
    """Return the lowest value that top-p keeps, float32 (B, 1), and how many entries equal to it it drops, int64 (B,).

    Parameters
    ----------
    values : float32 (B, K) in any order; -inf for what is out already.
    share : top-p, below 1.
    budget : int64 (B, 1); an entry is kept while the weight of those before it, by falling value, is at most this.
        None: ``floor(share * total)``.
    """
    falling = np.sort(values, axis=1)[:, ::-1]
    cumulative = np.cumsum(integer_weights(falling, maximum, rate=rate), axis=1, dtype=np.int64)
    if budget is None:
        budget = (share * cumulative[:, -1:]).astype(np.int64)
    # The weight before an entry is the cumulative weight of the one above it, and the first is always kept.
    last = np.count_nonzero(cumulative[:, :-1] <= budget, axis=1)
    cut = falling[np.arange(len(falling)), last][:, None]
    return cut, np.count_nonzero(falling >= cut, axis=1) - (last + 1)


def _cut_of_wide_rows(
    values: FloatArray, weights: IntArray, maximum: FloatArray, *, rate: np.float32, share: float
) -> tuple[FloatArray, Int64Array]:
    """Return what `_cut` does, sorting of each row only the bin of values in which the weight exceeds the share.

    Bins are numbered by falling value. Every operation that makes a number from a value is monotonic after rounding
    too, so no entry lies in an earlier bin than a larger one.
    """
    budget = np.empty((len(values), 1), dtype=np.int64)
    candidates = []
    for row in range(len(values)):  # one at a time: a row's temporaries fit the processor's cache
        with np.errstate(all="ignore"):
            exponent = values[row] - maximum[row]
            exponent *= rate
        np.maximum(exponent, np.float32(-ZERO_EXPONENT), out=exponent)
        exponent *= np.float32(-BINS_PER_HALVING)
        bins = exponent.astype(np.int64)
        # Exact in float64: at most 2**22 weights of 2**30.
        cumulative = np.bincount(bins, weights=weights[row]).cumsum()
        allowed = int(share * cumulative[-1])
        crossed = int(np.searchsorted(cumulative, allowed, side="right"))
        budget[row] = allowed - int(cumulative[crossed - 1]) if crossed else allowed
        candidates.append(values[row, np.flatnonzero(bins == crossed)])
    padded = np.full((len(values), max(map(len, candidates))), -np.inf, dtype=np.float32)
    for row, found in enumerate(candidates):
        padded[row, : len(found)] = found
    return _cut(padded, maximum, rate=rate, share=share, budget=budget)


def _gather(values: FloatArray, wanted: BoolArray) -> tuple[FloatArray, Int64Array]:
    """Return the wanted values of each row side by side, and their places in the flattened array.

    Rows with fewer are padded at the end: -inf, place ``values.size``.
    """
    flat = np.flatnonzero(wanted)
    counts = np.diff(np.searchsorted(flat, np.arange(len(values) + 1) * values.shape[1]))
    filled = np.arange(counts.max()) < counts[:, None]
    gathered = np.full(filled.shape, -np.inf, dtype=np.float32)
    gathered[filled] = values.ravel()[flat]
    places = np.full(filled.shape, values.size, dtype=np.int64)
    places[filled] = flat
    return gathered, places
