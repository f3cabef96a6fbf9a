"""Periodic noise fields: what every height, texture and cloud of a landscape is read from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Real = NDArray[np.floating[Any]]

PERIOD = 1024
"""Side of a noise field, cells; fields repeat after it."""


def spectral_field(rng: np.random.Generator, *, exponent: float, knee: float) -> Float:
    """Return Gaussian noise of mean 0 and deviation 1, float32 (PERIOD, PERIOD).

    Its power spectrum is (knee² + f²)^(−exponent/2).

    Parameters
    ----------
    rng : source of the white noise.
    exponent : how fast power falls with frequency; larger is smoother.
    knee : frequency, cycles a period, below which the spectrum is flat: sets the size of the largest features.
    """
    fy = (np.fft.fftfreq(PERIOD) * PERIOD).astype(np.float32)
    fx = (np.fft.rfftfreq(PERIOD) * PERIOD).astype(np.float32)
    power = (np.float32(knee**2) + fy[:, None] ** 2 + fx[None] ** 2) ** np.float32(-exponent / 4)
    white = rng.standard_normal((PERIOD, PERIOD), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * power, s=(PERIOD, PERIOD))
    field -= field.mean()
    return np.asarray(field / field.std(), np.float32)


def sample(field: Float, x: Real, y: Real) -> Float:
    """Return `field` at fractional cells (x, y), bilinear and periodic; x and y broadcast alike, float32."""
    x = np.asarray(x, np.float32)
    y = np.asarray(y, np.float32)
    x_floor, y_floor = np.floor(x), np.floor(y)
    fx, fy = x - x_floor, y - y_floor
    left = x_floor.astype(np.int32) & (PERIOD - 1)
    top = y_floor.astype(np.int32) & (PERIOD - 1)
    right = (left + 1) & (PERIOD - 1)
    bottom = ((top + 1) & (PERIOD - 1)) * PERIOD
    top = top * PERIOD
    flat = field.ravel()
    upper = flat[top + left]
    upper += (flat[top + right] - upper) * fx
    lower = flat[bottom + left]
    lower += (flat[bottom + right] - lower) * fx
    return np.asarray(upper + (lower - upper) * fy, np.float32)


class World:
    """The noise fields that many pictures share; pictures of worlds with different seeds share nothing.

    Parameters
    ----------
    seed : any non-negative integer; training uses 0 to 239, held-out pictures 100000 and up.

    Attributes
    ----------
    heights : three fields from smooth to rough, for terrain.
    textures : a fine-grained and a coarse field, for colour and canopy.
    clouds : two fields, for clouds.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.heights = tuple(spectral_field(rng, exponent=e, knee=7) for e in (5.2, 4.6, 4.2))
        self.textures = (spectral_field(rng, exponent=1.8, knee=60), spectral_field(rng, exponent=2.6, knee=14))
        self.clouds = (spectral_field(rng, exponent=3.3, knee=5), spectral_field(rng, exponent=3.0, knee=8))
