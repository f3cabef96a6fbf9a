"""Codebook entries of codes: what a decoder takes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float16, np.float32)


def gather_codes(codes: NDArray[np.int32], codebook: NDArray[_Float]) -> NDArray[_Float]:
    """Return the entries of ``codes``; NaN for a code outside of the codebook.

    Parameters
    ----------
    codes : int32, any shape.
    codebook : float16 or float32 (N, D).

    Returns
    -------
    (*codes.shape, D), the codebook's dtype.
    """
    inside = (codes >= 0) & (codes < len(codebook))
    entries = codebook[np.where(inside, codes, 0)]
    entries[~inside] = np.nan
    return entries
