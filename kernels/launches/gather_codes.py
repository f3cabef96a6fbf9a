"""Launches of `kernels/csrc/gather_codes.cu`."""

from __future__ import annotations

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

_THREADS = 256


def gather_codes(*, codes: int, codebook: int, out: int, rows: int, size: int, entry_bytes: int) -> Launch:
    """Return the launch that does `trt_vqgan.kernels.reference.gather_codes.gather_codes`.

    Parameters
    ----------
    codes, codebook, out : addresses on the device, aligned to 16 bytes: int32 (rows,), (size, D) and (rows, D).
    entry_bytes : of one codebook entry, D times the dtype's.

    Raises
    ------
    ShapeError : a size below 1, or entries of an odd number of bytes.
    """
    if min(rows, size, entry_bytes) < 1 or entry_bytes % 2:
        raise ShapeError(
            f"gather_codes: found {rows} codes of {size} entries of {entry_bytes} bytes, wanted at least one of each "
            "and an even number of bytes"
        )
    unit = 16 if entry_bytes % 16 == 0 else 2
    units = entry_bytes // unit
    return Launch(
        kernel=f"gather_codes_{unit}",
        grid=(-(-rows * units // _THREADS), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(
            np.uint64(codes),
            np.uint64(codebook),
            np.uint64(out),
            np.int32(rows),
            np.int32(units),
            np.int32(size),
        ),
    )
