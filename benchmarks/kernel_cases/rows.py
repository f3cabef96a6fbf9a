"""layer_norm and what follows a matrix product (bias, GELU, residual) beside their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches import bias as bias_launches
from trt_vqgan.kernels.launches.layer_norm import layer_norm as layer_norm_launch
from trt_vqgan.kernels.reference import dense_step as reference
from trt_vqgan.kernels.reference.dense_step import Norm

BIAS_KINDS = ("bias_add", "bias_gelu", "bias_residual")

_HALF = 2.0**-10  # a rounding to half that falls to the other side
_FLOAT = 2.0**-23


def check_layer_norm(runner: KernelRunner, rows: int, hidden: int, *, absolute: float) -> float:
    """Return the largest error of the kernel beyond a rounding of the result, at most ``absolute``."""
    rng = np.random.default_rng(hidden)
    x = runner.place((3 * rng.standard_normal((rows, hidden)) + 5).astype(np.float32))
    gain, bias = (runner.place(rng.standard_normal(hidden).astype(np.float32)) for _ in range(2))
    out = runner.place(np.full((rows, hidden), np.nan, np.float16))
    pointers: dict[str, NDArray[Any]] = {"x": x, "gain": gain, "bias": bias, "out": out}
    addresses = {name: int(runner.address(array)) for name, array in pointers.items()}
    runner.launch(layer_norm_launch(**addresses, rows=rows, hidden_size=hidden), seed=1)
    return _close(out, reference.layer_norm(x, Norm(gain=gain, bias=bias)), absolute)


def check_bias(runner: KernelRunner, kind: str, rows: int, columns: int, *, absolute: float) -> float:
    """Return the largest error of one of `BIAS_KINDS` beyond a rounding of the result, at most ``absolute``."""
    rng = np.random.default_rng(columns)
    y = runner.place((2 * rng.standard_normal((rows, columns))).astype(np.float16))
    bias = runner.place(rng.standard_normal(columns).astype(np.float32))
    x = runner.place(rng.standard_normal((rows, columns)).astype(np.float32))
    wanted_y, wanted_x = y.copy(), x.copy()
    pointers = {"y": int(runner.address(y)), "bias": int(runner.address(bias))}
    if kind == "bias_residual":
        pointers["x"] = int(runner.address(x))
        reference.bias_residual(wanted_y, bias, wanted_x)
    else:
        getattr(reference, kind)(wanted_y, bias)
    runner.launch(getattr(bias_launches, kind)(**pointers, rows=rows, columns=columns), seed=1)
    return max(_close(y, wanted_y, absolute), _close(x, wanted_x, absolute))


def _close(found: NDArray[np.floating[Any]], wanted: NDArray[np.floating[Any]], absolute: float) -> float:
    exact = wanted.astype(np.float64)
    relative = _HALF if found.dtype == np.float16 else _FLOAT
    error = np.abs(found.astype(np.float64) - exact) - relative * np.abs(exact)
    worst = float(error.max())
    assert (error <= absolute).all(), f"error {worst}, tolerance {absolute}"
    return max(worst, 0.0)
