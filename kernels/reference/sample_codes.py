"""Definition of how a code is drawn from one row of logits: temperature, top-k, top-p, draw.

Written for reading, one row at a time; the vectorised sampler and the CUDA kernel must return the same codes.

Probabilities are integers: an entry x of a row with maximum m weighs ``floor(2**30 * 2**((x - m) * c))`` with
``c = log2(e) / temperature``, computed by a float32 polynomial whose every operation is rounded on its own (no fused
multiply-add). Sums of integers don't depend on their order, so a sort, a radix select, a processor and a GPU agree in
every bit. Entries lighter than about ``2**-30`` of the heaviest weigh zero and are never drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

POLYNOMIAL = (
    1.535336188e-4,
    1.339887440e-3,
    9.618437357e-3,
    5.550332548e-2,
    2.402264791e-1,
    6.931472028e-1,
    1.0,
)
"""Coefficients of ``2**f`` for f in [-1/2, 1/2], highest power first; each is rounded to float32."""

FRACTION_BITS = 30
"""The heaviest entry of a row weighs ``2**FRACTION_BITS``."""

LOWEST_EXPONENT = -40.0
"""Exponents are clamped here, far below the -31 at which a weight becomes zero, so -inf needs no case of its own."""

LOG2_E = np.float32(1.44269504)


def exponent_rate(temperature: float) -> np.float32:
    """Return float32 ``log2(e) / temperature``: how many halvings a logit below the maximum costs.

    The temperature is rounded to float32 first, and the quotient once more. It is infinite where the temperature is too
    small for float32; callers refuse that.
    """
    with np.errstate(all="ignore"):
        return np.float32(LOG2_E / np.float32(temperature))


def integer_weight(logit: np.float32, maximum: np.float32, rate: np.float32) -> int:
    """Return the weight of one logit, from 0 to 2**30.

    Parameters
    ----------
    logit : at most ``maximum``; may be -inf.
    maximum : the largest logit of the row; finite.
    rate : from `exponent_rate`.
    """
    with np.errstate(all="ignore"):
        exponent = np.float32(np.float32(logit - maximum) * rate)
    exponent = max(exponent, np.float32(LOWEST_EXPONENT))
    whole = np.rint(exponent)  # halves go to the even number
    fraction = np.float32(exponent - whole)
    power = np.float32(POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        power = np.float32(np.float32(power * fraction) + np.float32(coefficient))
    mantissa = int(np.float32(power * np.float32(2**24)))  # exact: power lies in [0.7, 1.42]
    shift = int(whole) + FRACTION_BITS - 24
    return mantissa << shift if shift >= 0 else mantissa >> -shift


def kept_weights(
    logits: npt.NDArray[np.float32], *, temperature: float, top_k: int | None = None, top_p: float = 1.0
) -> list[int]:
    """Return the weight of each code, zero for those that top-k and top-p drop.

    Top-k keeps every entry that is at least the k-th largest, ties included. Top-p then goes through what is left by
    falling value, equal values by rising index, and keeps an entry while the weight before it is at most
    ``floor(top_p * total)``, with ``top_p`` rounded to float32 and the product taken in float64; so the most likely is
    always kept.

    Parameters
    ----------
    logits : float32 (V,), at least one of them finite, none NaN or +inf.
    temperature : above 0, divides the logits.
    top_k : at least 1; more than V, or None, keeps all.
    top_p : from 0 to 1.

    Notes
    -----
    The order temperature, top-k, top-p and the treatment of ties are those of the published ``sample_with_past`` and
    the ``top_k_top_p_filtering`` that it calls.
    """
    return kept_weights_at_rate(logits, rate=exponent_rate(temperature), top_k=top_k, top_p=top_p)


def kept_weights_at_rate(
    logits: npt.NDArray[np.float32], *, rate: np.float32, top_k: int | None = None, top_p: float = 1.0
) -> list[int]:
    """Return what `kept_weights` does, given `exponent_rate` of the temperature: what a GPU is given."""
    values = logits + np.float32(0.0)  # makes -0 a +0
    codebook_size = len(values)
    maximum = values.max()

    by_likelihood = sorted(range(codebook_size), key=lambda code: (-values[code], code))
    lowest = values[by_likelihood[min(top_k or codebook_size, codebook_size) - 1]]
    survivors = [code for code in by_likelihood if values[code] >= lowest]

    weights = {code: integer_weight(values[code], maximum, rate) for code in survivors}
    budget = int(float(np.float32(top_p)) * float(sum(weights.values())))
    kept = [0] * codebook_size
    before = 0
    for code in survivors:
        if before > budget:
            break
        kept[code] = weights[code]
        before += weights[code]
    return kept


def draw(weights: list[int], random: int) -> int:
    """Return the first code, in index order, whose cumulative weight exceeds ``random * total / 2**64``.

    Parameters
    ----------
    weights : at least one above zero.
    random : uniform, 64 bits.
    """
    target = (random * sum(weights)) >> 64
    cumulative = 0
    for code, weight in enumerate(weights):
        cumulative += weight
        if cumulative > target:
            return code
    raise AssertionError("target lies below the total")


def sample_code(
    logits: npt.NDArray[np.float32],
    *,
    random: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> int:
    """Return the code drawn from one row of logits, with the parameters of `kept_weights` and `draw`."""
    return draw(kept_weights(logits, temperature=temperature, top_k=top_k, top_p=top_p), random)


def greedy_code(logits: npt.NDArray[np.float32]) -> int:
    """Return the code with the largest logit, the lowest of them on ties."""
    return min(range(len(logits)), key=lambda code: (-logits[code], code))
