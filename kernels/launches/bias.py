"""Launches of `kernels/csrc/bias.cu`: what follows a matrix product of many rows.

Addresses are on the device and aligned to 16 bytes; ``y`` half (M, N), ``bias`` float32 (N,), ``x`` float32 (M, N), N a
multiple of 8. Each is defined by the function of its name in `trt_vqgan.kernels.reference.dense_step`, and raises
`ShapeError` for sizes out of range.
"""

from __future__ import annotations

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

_THREADS = 256
_ELEMENTS_OF_THREAD = 8


def bias_add(*, y: int, bias: int, rows: int, columns: int) -> Launch:
    """Return the launch that adds a bias to y in place."""
    return _launch("bias_add", rows, columns, y, bias)


def bias_gelu(*, y: int, bias: int, rows: int, columns: int) -> Launch:
    """Return the launch that makes gelu(y + bias) of y in place."""
    return _launch("bias_gelu", rows, columns, y, bias)


def bias_residual(*, y: int, bias: int, x: int, rows: int, columns: int) -> Launch:
    """Return the launch that adds y + bias to x in place."""
    return _launch("bias_residual", rows, columns, y, bias, x)


def _launch(kernel: str, rows: int, columns: int, *addresses: int) -> Launch:
    if rows < 1 or columns < _ELEMENTS_OF_THREAD or columns % _ELEMENTS_OF_THREAD:
        raise ShapeError(f"{kernel}: found {rows} rows of {columns}, wanted at least one, of a multiple of 8")
    return Launch(
        kernel=kernel,
        grid=(-(-rows * columns // (_THREADS * _ELEMENTS_OF_THREAD)), 1, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=0,
        arguments=(*(np.uint64(address) for address in addresses), np.int32(rows), np.int32(columns)),
    )
