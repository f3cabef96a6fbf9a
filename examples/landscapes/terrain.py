"""Terrain: how high the ground is at (x, z), for each kind of scene, and where forest grows."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from examples.landscapes.noise import PERIOD, Float, Real, World, sample

KINDS = ("mountain lake", "green hills", "desert", "winter", "sea sunset")
LAKE, HILLS, DESERT, WINTER, SEA = range(5)


def smoothstep(x: Real) -> Float:
    """Return 3x² − 2x³ of x clipped to [0, 1]."""
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


@dataclasses.dataclass(kw_only=True)
class Terrain:
    """A height field over x (right) and z (ahead), metres, water at height 0.

    Attributes
    ----------
    world : noise fields.
    kind : index into KINDS.
    amplitude : height of the mountains, metres; the renderer lowers it when they would leave the picture.
    start : distance at which the mountains begin, metres.
    low : height of the plain.
    has_bank, bank_slant : whether the camera stands on a bank, and how it tilts to the side.
    dune_angle, dune_length, dune_height : of the desert.
    island_level, island_side : how much of the far land stays under the sea, and on which side it rises.
    offset : (ox, oy, qx, qy), where in the noise fields this scene lies.
    """

    world: World
    kind: int
    amplitude: float
    start: float
    low: float
    has_bank: bool
    bank_slant: float
    dune_angle: float
    dune_length: float
    dune_height: float
    island_level: float
    island_side: float
    offset: tuple[float, float, float, float]

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator, kind: int) -> Terrain:
        """Return a random terrain of one kind."""
        u = rng.uniform
        bank_chance = (0.35, 0.0, 0.0, 0.3, 0.4)[kind]
        return cls(
            world=world,
            kind=kind,
            amplitude=u(*((300, 480), (60, 190), (60, 150), (320, 520), (50, 150))[kind]),
            start=u(*((220, 420), (1000, 1500), (700, 1100), (160, 360), (250, 600))[kind]),
            low=u(*((-9, -3), (4, 14), (6, 6.01), (-6, 9), (-16, -9))[kind]),
            has_bank=bool(u() < bank_chance),
            bank_slant=u(-1, 1),
            dune_angle=u(-0.5, 0.5),
            dune_length=u(110, 220),
            dune_height=u(13, 26),
            island_level=u(0.2, 1.0),
            island_side=u(-1, 1),
            offset=tuple(u(0, PERIOD, 4).tolist()),
        )

    def height(self, x: Float, z: Float) -> Float:
        """Return the ground's height at (x, z), metres, float32, shaped like x."""
        broad, middle, rough = self.world.heights
        ox, oy, qx, qy = self.offset
        a = sample(broad, ox + x * 0.16, oy + z * 0.16)
        if self.kind in (LAKE, WINTER):
            rise = smoothstep((z - self.start) / 650)
            ridge = np.exp(-np.abs(sample(middle, qx + x * 0.11, qy + z * 0.11)) * 1.25)
            d = sample(rough, oy + x * 0.45, ox + z * 0.45)
            peaks = np.maximum(0.05 + ridge**1.25 * (0.85 + 0.3 * a) + 0.055 * d * (0.4 + ridge), 0.02)
            h = self.low + 5.5 * a + 2 * d + rise * self.amplitude * peaks
        elif self.kind == HILLS:
            d = sample(middle, qx + x * 0.35, qy + z * 0.35)
            far = np.exp(-np.abs(sample(rough, qx + x * 0.07, qy + z * 0.07)) * 1.2)
            h = self.low + (7 + 30 * smoothstep(z / 420)) * a + (2 + 3 * smoothstep(z / 300)) * d
            h = h + smoothstep((z - self.start) / 900) * self.amplitude * far
        elif self.kind == DESERT:
            phase = (x * np.cos(self.dune_angle) + z * np.sin(self.dune_angle)) / self.dune_length + 1.15 * a + 0.5
            phase = phase - np.floor(phase)
            t = np.where(phase < 0.68, phase / 0.68, (1 - phase) / 0.32)
            dune = t * t * (2.2 - 1.2 * t)
            d = sample(middle, qx + x * 0.1, qy + z * 0.1)
            mesa = smoothstep((z - self.start) / 250) * self.amplitude * smoothstep((d - 0.55) / 0.22)
            h = self.low + self.dune_height * dune * (0.75 + 0.25 * d) * smoothstep((z + 60) / 160) + mesa
        else:
            d = sample(middle, qx + x * 0.4, qy + z * 0.4)
            rise = smoothstep((z - self.start * 0.5) / self.start)
            land = a * 0.8 + 0.12 * d + self.island_side * x / (z + 200) * 1.6 - self.island_level
            h = self.low + rise * self.amplitude * np.maximum(land, -0.12)
        if self.has_bank:
            h = h + 14 * smoothstep((46 + self.bank_slant * x * 0.5 - z) / 40)
        return np.asarray(h, np.float32)

    def forest(self, x: Float, z: Float, height: Float, slope: Float, tint: Float) -> NDArray[np.bool_]:
        """Return where trees stand; `slope` is rise over run, `tint` the coarse texture at the same places."""
        if self.kind == DESERT:
            return np.zeros(x.shape, bool)
        density = sample(self.world.heights[2], self.offset[2] + x * 0.3 + 200, self.offset[3] + z * 0.3)
        threshold = (0.0, 0.45, np.inf, 0.35, 0.2)[self.kind]
        tree_line = (130 + 40 * tint, np.inf, 0.0, 110 + 40 * tint, 60.0)[self.kind]
        fits = (slope < 1.3) & (height > 1.6) & (height < tree_line) & (z > 70)
        return np.asarray((density + 0.25 * tint > threshold) & fits)
