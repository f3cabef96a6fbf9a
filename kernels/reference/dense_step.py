"""Definition of the dense parts of a transformer layer, as the decode step and the prefill compute them.

Activations that a product reads are rounded to the dtype of the weights, products are summed in float32 or wider, and
what follows (bias, GELU, residual) is computed on the sum before it is rounded once to the dtype of the result. Here
everything between two roundings is float64, so a kernel may differ by its float32 sums and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Gain and bias float32 (K,) of a layer norm, and what is added to its variance."""

    gain: NDArray[np.float32]
    bias: NDArray[np.float32]
    epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Weight (N, K), float16 or float32, and bias float32 (N,) or None."""

    weight: FloatArray
    bias: NDArray[np.float32] | None


def layer_norm(x: NDArray[np.float32], norm: Norm) -> Float64Array:
    """Return (x - mean) / sqrt(variance + epsilon) * gain + bias of each row of (R, K), not rounded."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=1, keepdims=True)
    result: Float64Array = centred / np.sqrt(variance + norm.epsilon) * norm.gain + norm.bias
    return result


def gelu(x: Float64Array) -> Float64Array:
    """Return x/2 * (1 + erf(x / sqrt(2))): torch's ``nn.GELU``, not its approximation by tanh."""
    result: Float64Array = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return result


def linear(x: FloatArray, layer: Linear) -> Float64Array:
    """Return W x + b of each row of (R, K), x rounded to the weight's dtype, the result not rounded."""
    sums: Float64Array = x.astype(layer.weight.dtype).astype(np.float64) @ layer.weight.astype(np.float64).T
    return sums if layer.bias is None else sums + layer.bias


def norm_linear(x: NDArray[np.float32], norm: Norm, layer: Linear) -> FloatArray:
    """Return W LayerNorm(x) + b, (R, N) of the weight's dtype: queries, keys and values."""
    return linear(layer_norm(x, norm), layer).astype(layer.weight.dtype)


def norm_linear_gelu(x: NDArray[np.float32], norm: Norm, layer: Linear) -> FloatArray:
    """Return gelu(W LayerNorm(x) + b), (R, N) of the weight's dtype: the hidden layer of the MLP."""
    return gelu(linear(layer_norm(x, norm), layer)).astype(layer.weight.dtype)


def norm_logits(x: NDArray[np.float32], norm: Norm, layer: Linear) -> NDArray[np.float32]:
    """Return W LayerNorm(x) + b, float32 (R, N)."""
    return linear(layer_norm(x, norm), layer).astype(np.float32)


def linear_residual(activations: FloatArray, layer: Linear, x: NDArray[np.float32]) -> None:
    """Add W activations + b to x, float32 (R, N), in place; activations (R, K)."""
    x[:] = x + linear(activations, layer)


def bias_add(y: FloatArray, bias: NDArray[np.float32]) -> None:
    """Add b to each row of y (R, N), in place."""
    y[:] = y.astype(np.float64) + bias


def bias_gelu(y: FloatArray, bias: NDArray[np.float32]) -> None:
    """Make gelu(y + b) of each row of y (R, N), in place."""
    y[:] = gelu(y.astype(np.float64) + bias)


def bias_residual(y: FloatArray, bias: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """Add y + b to x, float32 (R, N), in place."""
    x[:] = x + (y.astype(np.float64) + bias)
