"""Launch of `kernels/csrc/layer_norm.cu`."""

from __future__ import annotations

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

_ROWS_OF_BLOCK = 4


def layer_norm(*, x: int, gain: int, bias: int, out: int, rows: int, hidden_size: int, epsilon: float = 1e-5) -> Launch:
    """Return the launch of `trt_vqgan.kernels.reference.dense_step.layer_norm`, rounded to half.

    Parameters
    ----------
    x, gain, bias, out : addresses on the device, aligned to 16 bytes: float32 (M, d), (d,) and (d,), half (M, d).
    rows, hidden_size : M, and d, a multiple of 4.

    Raises
    ------
    ShapeError
        For sizes out of range.
    """
    if rows < 1 or hidden_size < 4 or hidden_size % 4:
        raise ShapeError(f"layer_norm: found {rows} rows of {hidden_size}, wanted at least one, of a multiple of 4")
    return Launch(
        kernel="layer_norm_rows",
        grid=(-(-rows // _ROWS_OF_BLOCK), 1, 1),
        block=(32 * _ROWS_OF_BLOCK, 1, 1),
        shared_bytes=0,
        arguments=(
            np.uint64(x),
            np.uint64(gain),
            np.uint64(bias),
            np.float32(epsilon),
            np.uint64(out),
            np.int32(rows),
            np.int32(hidden_size),
        ),
    )
