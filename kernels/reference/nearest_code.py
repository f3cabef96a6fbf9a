"""Nearest codebook entry, defined to the bit and computed fast.

The definition is ``nearest_code_plain``: d = sum over i of (z_i - e_i)^2, i ascending, every subtraction, product and
addition rounded to float32 and none fused; the lowest index among equal d wins. A d that is NaN never wins, so a row
with a NaN gives 0. A GPU that uses ``__fsub_rn``, ``__fmul_rn`` and ``__fadd_rn`` in this order gets the same bits.

``nearest_code`` gets them with one float32 matrix product: its distances, with a proven error bound, leave the few
candidates that could be the minimum, and only these are computed by the definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

_BLOCK_BYTES = 4 << 20  # of each large temporary; the index lists of the worst case take eight times as much
_UNIT = 2.0**-24  # largest relative error of one float32 rounding
_SMALLEST = 2.0**-149
_SAFE_SQUARE = 1e37  # larger squared norms could overflow somewhere in float32


def nearest_code(z: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index of each row's nearest entry; equal to ``nearest_code_plain`` bit for bit.

    Parameters
    ----------
    z : float32 (M, D), latents.
    codebook : float32 (N, D), N at least 1.

    Returns
    -------
    int64 (M,), in [0, N).

    Raises
    ------
    ShapeError
        For another rank, unequal D, another dtype, or an empty codebook.

    Notes
    -----
    u = 2^-24. The product is taken of z' = fl(z - c) and e' = fl(e - c) with c the codebook's mean, because without it
    an offset codebook would drown in the error. E is the largest |e'|. Errors in d, whatever the order of summation:

    - of rounding z' and e': 2.01 u (|z'| + E)^2;
    - of the product and of |e'|^2 - 2 z'.e': 1.01 u ((D + 2) 2 |z'| E + 2 E^2);
    - of the defining float32 sum: each term passes at most D + 2 roundings, so a factor 1 +- g, g = 1.01 (D + 2) u;
    - of underflow: at most 4 D 2^-149.

    The first two are covered by ``1.05 u ((D + 4) 2 |z'| E + 4 (|z'| + E)^2)``. Temporaries stay below 48 MB beside
    one copy of the codebook.
    """
    _check(z, codebook)
    codes = np.zeros(len(z), np.int64)
    usable = np.isfinite(codebook).all(axis=1)
    rows_finite = np.flatnonzero(np.isfinite(z).all(axis=1))  # any other row has only inf and NaN: 0
    if not usable.any():
        return codes
    with np.errstate(over="ignore", invalid="ignore"):
        centre = codebook[usable].mean(axis=0) if not usable.all() else codebook.mean(axis=0)
        centre[~np.isfinite(centre)] = 0.0
        centred = codebook - centre
        centred[~usable] = 0.0
        norms = _squared_norms(centred)
        largest = float(norms.max())
        norms[~usable] = np.inf  # such an entry's d is inf or NaN, never less than another
        rows_at_once = max(1, _BLOCK_BYTES // (4 * max(codebook.shape)))
        for start in range(0, len(rows_finite), rows_at_once):
            rows = rows_finite[start : start + rows_at_once]
            candidate = _candidates(z[rows] - centre, centred, norms, largest)
            codes[rows] = candidate.argmax(axis=1)
            undecided = np.flatnonzero(np.count_nonzero(candidate, axis=1) > 1)
            if len(undecided):
                rows = rows[undecided]
                codes[rows] = _settle(z[rows], codebook, candidate[undecided])
    return codes


def nearest_code_plain(z: NDArray[np.float32], codebook: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what ``nearest_code`` returns, by the definition: every distance, one dimension after the other."""
    _check(z, codebook)
    codes = np.zeros(len(z), np.int64)
    rows_at_once = max(1, _BLOCK_BYTES // (4 * len(codebook)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(z), rows_at_once):
            part = z[start : start + rows_at_once]
            d = np.zeros((len(part), len(codebook)), np.float32)
            for i in range(codebook.shape[1]):
                difference = part[:, i, None] - codebook[None, :, i]
                difference *= difference
                d += difference
            d[np.isnan(d)] = np.inf
            codes[start : start + rows_at_once] = d.argmin(axis=1)  # the first of equal ones
    return codes


def _check(z: NDArray[np.float32], codebook: NDArray[np.float32]) -> None:
    if z.ndim != 2 or codebook.ndim != 2 or z.shape[1] != codebook.shape[1] or 0 in codebook.shape:
        raise ShapeError(
            f"nearest_code: found z {z.shape} and codebook {codebook.shape}, wanted (M, D) and (N, D) with the same D "
            "and at least one entry"
        )
    if z.dtype != np.float32 or codebook.dtype != np.float32:
        raise ShapeError(f"nearest_code: found {z.dtype} and {codebook.dtype}, wanted float32 for both")


def _squared_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows, dtype=np.float64, casting="same_kind")
    return norms


def _candidates(
    z: NDArray[np.float32], codebook: NDArray[np.float32], norms: NDArray[np.float64], largest: float
) -> NDArray[np.bool_]:
    """Return bool (M, N): which entries could be nearest, for centred z (M, D) and codebook (N, D)."""
    dim = codebook.shape[1]
    z_norms = _squared_norms(z)
    d = z @ codebook.T
    d *= -2.0
    d += norms.astype(np.float32)  # without |z|^2, which changes no order
    z_length, length = np.sqrt(z_norms), largest**0.5
    error = 1.05 * _UNIT * ((dim + 4) * 2.0 * z_length * length + 4.0 * (z_length + length) ** 2)
    relative = 1.01 * (dim + 2) * _UNIT
    underflow = 4.0 * dim * _SMALLEST
    least = (d.min(axis=1) + z_norms + error) * (1.0 + relative) + underflow  # the float32 minimum is no larger
    limit = (least + underflow) / (1.0 - relative) - z_norms + error
    candidate: NDArray[np.bool_] = d <= np.nextafter(limit.astype(np.float32), np.float32(np.inf))[:, None]
    candidate[~((z_norms + largest) < _SAFE_SQUARE)] = True  # the bound says nothing about inf and NaN
    return candidate


def _settle(z: NDArray[np.float32], codebook: NDArray[np.float32], candidate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return codes int64 (M,): each row's nearest among its candidates, bool (M, N) with one at least in each row."""
    rows, entries = np.nonzero(candidate)  # rows ascend, and entries ascend in a row
    d = np.empty(len(rows), np.float32)
    pairs_at_once = max(1, _BLOCK_BYTES // (4 * codebook.shape[1]))
    for start in range(0, len(rows), pairs_at_once):
        part = slice(start, start + pairs_at_once)
        terms = z[rows[part]] - codebook[entries[part]]
        terms *= terms
        total = np.zeros(len(terms), np.float32)
        for column in terms.T:  # not sum(): the order of additions is part of the definition
            total += column
        d[part] = total
    d[np.isnan(d)] = np.inf
    first = np.searchsorted(rows, np.arange(len(z)))
    least = np.minimum.reduceat(d, first)
    winners = np.flatnonzero(d == least[rows])
    codes: NDArray[np.int64] = entries[winners[np.searchsorted(rows[winners], np.arange(len(z)))]]
    return codes
