"""Whether what was timed computes what it should: each row carries the answer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

LOGITS_FP32 = 1e-3
"""Largest difference of a logit in fp32: what parity of a bundle asks for. Measured: 4e-6 at 12x768."""

MEAN_KL_NATS = {"int8": 1e-2, "int4": 1e-1}
"""Mean divergence of a next code's distribution with weights of fewer bits. Measured at 12x768 with random weights:
1.2e-4 and 9e-3; the trained landscape model: 3e-4 and 1.7e-2."""

GREY_LEVELS_FP32 = 1
"""Both sides truncate to 8 bits, so that a float error of 1e-6 may cross a level."""

PSNR_HALF_WEIGHTS_DB = 35.0
"""Pictures of a decoder whose weights are stored in float16, against float32."""

PSNR_BF16_DB = 40.0
"""Pictures of a decoder whose convolutions compute in bf16, against float32. Measured: 58 dB and more on the demo."""

CODES_FP32, CODES_HALF_WEIGHTS = 0.99, 0.9
"""Share of equal codes. In fp32 another order of summation moves only codes that lie between two entries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """One comparison.

    Attributes
    ----------
    measure : what was compared and how, with its unit.
    value : what was found.
    limit : what it may be at most (or, where ``at_least``, must be at least).
    at_least : the direction of the limit.
    ok : within the limit.
    """

    measure: str
    value: float
    limit: float
    at_least: bool = False
    ok: bool


def judge(measure: str, value: float, *, limit: float, at_least: bool = False) -> Parity:
    """Return the comparison of a value with its limit; a NaN is never within it."""
    value = float(value)
    ok = not math.isnan(value) and (value >= limit if at_least else value <= limit)
    return Parity(measure=measure, value=value, limit=limit, at_least=at_least, ok=ok)


def compare_logits(found: FloatArray, wanted: FloatArray, *, precision: str) -> Parity:
    """Return how far logits float32 (…, V) are from the reference's: the largest difference in fp32, else mean KL."""
    _same_shape(found, wanted)
    if precision == "fp32":
        return judge("logits, max abs", _max_abs(found, wanted), limit=LOGITS_FP32)
    return judge("mean KL, nats", mean_kl_nats(wanted, found), limit=MEAN_KL_NATS[precision])


def mean_kl_nats(wanted: FloatArray, found: FloatArray) -> float:
    """Return KL(wanted || found) of the softmax over the last axis, in nats, averaged over all rows."""
    log_p, log_q = _log_softmax(wanted), _log_softmax(found)
    p = np.exp(log_p)
    # an excluded code (probability 0) adds nothing, but 0 x -inf would be NaN
    excess = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p != 0)
    return float((p * excess).sum(axis=-1).mean())


def compare_pixels(found: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8], *, precision: str) -> Parity:
    """Return how far pictures are from the reference's: grey levels in fp32, else PSNR in dB."""
    _same_shape(found, wanted)
    difference = found.astype(np.int64) - wanted
    if precision == "fp32":
        return judge("grey levels, max abs", float(np.abs(difference).max()), limit=GREY_LEVELS_FP32)
    mean_square = float((difference.astype(np.float64) ** 2).mean())
    psnr = math.inf if mean_square == 0 else 10 * math.log10(255.0**2 / mean_square)
    # infinity is no JSON number, and 8-bit pictures that differ in one pixel have less than this
    limit = PSNR_BF16_DB if precision == "bf16" else PSNR_HALF_WEIGHTS_DB
    return judge("PSNR, dB", min(psnr, 150.0), limit=limit, at_least=True)


def compare_codes(found: Int64Array, wanted: Int64Array, *, limit: float) -> Parity:
    """Return the share of equal codes, which must be at least ``limit``."""
    _same_shape(found, wanted)
    return judge("equal codes, share", float((found == wanted).mean()), limit=limit, at_least=True)


def _log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _max_abs(found: FloatArray, wanted: FloatArray) -> float:
    return float(np.abs(found.astype(np.float64) - wanted).max())


def _same_shape(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> None:
    # NumPy would broadcast one row against many, and the comparison would say less than it seems to
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert found.size, "nothing to compare"
