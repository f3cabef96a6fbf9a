"""Latents and codebooks of every kind, for nearest_code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

Case = Callable[[np.random.Generator, int, int, int], tuple[F32, F32]]
"""Returns latents float32 (rows, dim) and a codebook float32 (size, dim), of a generator, rows, size and dim."""


def gaussian(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    """Nothing in common."""
    return rng.standard_normal((rows, dim), np.float32), rng.standard_normal((size, dim), np.float32)


def code_plus_noise(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    codebook = rng.standard_normal((size, dim), np.float32)
    noise = 0.1 * rng.standard_normal((rows, dim), np.float32)
    return codebook[rng.integers(0, size, rows)] + noise, codebook


def duplicates(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    codebook = rng.standard_normal((max(size // 4, 1), dim), np.float32)[rng.integers(0, max(size // 4, 1), size)]
    return codebook[rng.integers(0, size, rows)] + np.float32(0.25), codebook


def fresh_codebook(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    """As the published initialisation: entries so small that float32 distances tie by the hundred."""
    codebook = rng.uniform(-1 / size, 1 / size, (size, dim)).astype(np.float32)
    return 4 * rng.standard_normal((rows, dim), np.float32), codebook


def dead_codes(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    codebook = rng.standard_normal((size, dim), np.float32)
    codebook[rng.random(size) < 0.95] = 0
    return 1e-3 * rng.standard_normal((rows, dim), np.float32), codebook


def offset(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    codebook = (100 + 0.01 * rng.standard_normal((size, dim))).astype(np.float32)
    return (100 + 0.01 * rng.standard_normal((rows, dim))).astype(np.float32), codebook


def integers(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    z, codebook = rng.integers(-1, 2, (rows, dim)), rng.integers(-1, 2, (size, dim))
    return z.astype(np.float32), codebook.astype(np.float32)


def tiny(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    """Squares that underflow."""
    z, codebook = gaussian(rng, rows, size, dim)
    return z * np.float32(1e-22), codebook * np.float32(1e-22)


def huge(rng: np.random.Generator, rows: int, size: int, dim: int) -> tuple[F32, F32]:
    """Squares that overflow, some of them."""
    z, codebook = gaussian(rng, rows, size, dim)
    return z * np.float32(1e19), codebook * np.float32(1e19)


CASES: list[Case] = [
    gaussian,
    code_plus_noise,
    duplicates,
    fresh_codebook,
    dead_codes,
    offset,
    integers,
    tiny,
    huge,
]
