"""Rows that say how far one output is from what it should be, and whether that is near enough."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What an output may differ by. What is None isn't asked for.

    Attributes
    ----------
    max_abs : largest absolute difference.
    max_rel : that over the reference's largest magnitude.
    codes : share of equal codes that is needed.
    psnr_db : of pictures in [-1, 1].
    """

    max_abs: float | None = None
    max_rel: float | None = None
    codes: float | None = None
    psnr_db: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One compared output.

    Attributes
    ----------
    output : what was compared.
    max_abs, max_rel : largest absolute difference, and that over the reference's largest magnitude; None where
        only codes are compared.
    codes_equal : whether all codes (argmax or nearest) agree; None where the output is no code.
    codes_share : share of codes that agree.
    psnr_db : where a tolerance asks for it; None otherwise, and for equal pictures.
    ok : within tolerance.
    """

    output: str
    max_abs: float | None
    max_rel: float | None
    codes_equal: bool | None
    codes_share: float | None
    psnr_db: float | None = None
    ok: bool


def compare(output: str, found: FloatArray, wanted: FloatArray, tolerance: Tolerance, codes: Any = None) -> ParityRow:
    """Return the row of two arrays of one shape; ``codes`` is a pair of integer arrays to compare as well."""
    difference = float(np.abs(found.astype(np.float64) - wanted).max()) if found.size else 0.0
    scale = float(np.abs(wanted).max()) if wanted.size else 0.0
    relative = difference / scale if scale else 0.0
    share = None if codes is None else float((codes[0] == codes[1]).mean())
    ok = math.isfinite(difference)
    ok = ok and (tolerance.max_abs is None or difference <= tolerance.max_abs)
    ok = ok and (tolerance.max_rel is None or relative <= tolerance.max_rel)
    psnr = None
    if tolerance.psnr_db is not None:
        psnr = picture_psnr_db(found, wanted)
        ok = ok and (psnr is None or psnr >= tolerance.psnr_db)
    if share is not None and tolerance.codes is not None:
        ok = ok and share >= tolerance.codes
    return ParityRow(
        output=output,
        max_abs=difference,
        max_rel=relative,
        codes_equal=None if share is None else share == 1.0,
        codes_share=share,
        psnr_db=psnr,
        ok=ok,
    )


def picture_psnr_db(found: FloatArray, wanted: FloatArray) -> float | None:
    """Return the peak signal-to-noise ratio in dB of pictures in [-1, 1], clipped to that.

    None for equal ones; NaN where a value is none.
    """
    difference = found.astype(np.float64).clip(-1, 1) - wanted.astype(np.float64).clip(-1, 1)
    mean_square = float(np.mean(np.square(difference)))
    return 10 * math.log10(4 / mean_square) if mean_square else None
