"""Light: sun, sky, clouds, haze and the palette of one picture."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from examples.landscapes.noise import PERIOD, Float, World, sample
from examples.landscapes.terrain import DESERT, LAKE, SEA, WINTER, smoothstep

CLASSES = ("sky", "cloud", "water", "sand", "grass", "forest", "rock", "snow", "sun")
SKY, CLOUD, WATER, SAND, GRASS, FOREST, ROCK, SNOW, SUN = range(9)

_GRASS = ([0.34, 0.47, 0.13], [0.42, 0.55, 0.17], [0.52, 0.50, 0.20], [0.27, 0.46, 0.18], [0.62, 0.53, 0.24])
_FOREST = ([0.10, 0.23, 0.10], [0.08, 0.21, 0.13], [0.15, 0.26, 0.09])
_AUTUMN = ([0.46, 0.24, 0.07], [0.50, 0.33, 0.09])
_DUNES = ([0.84, 0.60, 0.36], [0.88, 0.68, 0.42], [0.80, 0.50, 0.30], [0.86, 0.74, 0.54], [0.77, 0.49, 0.33])
_FLOWERS = ([0.95, 0.85, 0.25], [0.80, 0.30, 0.45], [0.95, 0.95, 0.90], [0.60, 0.45, 0.85])
_LAKES = ([0.05, 0.20, 0.27], [0.06, 0.30, 0.33], [0.07, 0.17, 0.30])


def mix(a: NDArray[np.floating], b: NDArray[np.floating], t: NDArray[np.floating] | float) -> Float:
    """Return a where t is 0, b where t is 1, linear between."""
    return np.asarray(a * (1 - t) + b * t, np.float32)


def _rgb(values: list[float] | tuple[float, ...]) -> Float:
    return np.asarray(values, np.float32)


def _pick(rng: np.random.Generator, choices: tuple[list[float], ...]) -> Float:
    return _rgb(choices[int(rng.integers(len(choices)))])


@dataclasses.dataclass(kw_only=True)
class Light:
    """Everything that colours a picture, drawn once; colours are linear RGB, about 0 to 1, float32 (3,).

    Attributes
    ----------
    is_dusk : low warm sun.
    direction : unit vector to the sun (x right, y up, z ahead), float32 (3,).
    sun_x, sun_y, sun_radius, sun_is_visible : the disc, pixels of a picture `size` high.
    zenith, horizon_colour : the sky's gradient.
    cloud_cover, cloud_scale, cloud_offset : of the cloud layer; a larger cover value means fewer clouds.
    sun_colour, ambient, fog, fog_distance : light on the ground and haze (metres).
    grass, sand, tree, flower, water : the palette; `flower` is None where none bloom.
    """

    world: World
    size: int
    horizon: float
    is_dusk: bool
    direction: Float
    sun_x: float
    sun_y: float
    sun_radius: float
    sun_is_visible: bool
    zenith: Float
    horizon_colour: Float
    cloud_cover: float
    cloud_scale: float
    cloud_offset: tuple[float, float]
    sun_colour: Float
    ambient: Float
    fog: Float
    fog_distance: float
    grass: Float
    sand: Float
    tree: Float
    flower: Float | None
    water: Float

    @classmethod
    def draw(cls, world: World, rng: np.random.Generator, kind: int, size: int, horizon: float) -> Light:
        """Return random light for one kind of scene; `size` and `horizon` (its row) in pixels."""
        u = rng.uniform
        is_dusk = bool(u() < (0.8 if kind == SEA else 0.15))
        azimuth = u(-0.9, 0.9)
        elevation = u(0.06, 0.24) if is_dusk else (u(0.25, 0.5) if kind == DESERT else u(0.35, 0.8))
        towards = np.array([np.sin(azimuth * 1.3), elevation * 0.9 + 0.06, np.cos(azimuth * 1.3) * 0.35])
        towards /= np.linalg.norm(towards)
        if not is_dusk and u() < 0.7:
            towards[2] = -abs(towards[2])  # by day mostly from behind the camera: lit slopes show their shape
        if is_dusk:
            zenith = mix(_rgb([0.15, 0.22, 0.48]), _rgb([0.32, 0.23, 0.48]), u())
            glow = mix(_rgb([1.0, 0.64, 0.28]), _rgb([0.98, 0.53, 0.50]), u())
            sun_colour, ambient, fog = _rgb([1.25, 0.74, 0.42]), _rgb([0.36, 0.33, 0.42]), glow * np.float32(0.92)
        else:
            zenith = mix(_rgb([0.11, 0.33, 0.74]), _rgb([0.28, 0.52, 0.80]), u())
            glow = mix(_rgb([0.70, 0.84, 0.97]), _rgb([0.88, 0.87, 0.84]), u() ** 2)
            if kind == WINTER:
                zenith = mix(zenith, _rgb([0.50, 0.62, 0.78]), 0.35)
            sun_colour, ambient = _rgb([1.12, 1.05, 0.93]), _rgb([0.40, 0.46, 0.54])
            fog = glow * np.float32(0.93) + np.float32(0.03)
        water = _rgb([0.10, 0.14, 0.24]) if is_dusk else _rgb([0.05, 0.22, 0.36])
        if not is_dusk and kind == LAKE:
            water = _pick(rng, _LAKES)
        elif not is_dusk and kind == WINTER:
            water = _rgb([0.12, 0.22, 0.32])
        return cls(
            world=world,
            size=size,
            horizon=horizon,
            is_dusk=is_dusk,
            direction=towards.astype(np.float32),
            sun_x=size * (0.5 + azimuth * 0.42),
            sun_y=horizon - elevation * size * 0.62,
            sun_radius=size * u(0.022, 0.036),
            sun_is_visible=is_dusk or bool(u() < 0.2),
            zenith=zenith,
            horizon_colour=glow,
            cloud_cover=u(-0.1, 1.5),
            cloud_scale=u(0.7, 1.2),
            cloud_offset=(u(0, PERIOD), u(0, PERIOD)),
            sun_colour=sun_colour,
            ambient=ambient,
            fog=fog,
            fog_distance=(1900, 1600, 2200, 2000, 1600)[kind] * u(0.7, 1.3),
            grass=_pick(rng, _GRASS),
            sand=_rgb([0.80, 0.72, 0.54]) if kind in (LAKE, SEA) else _pick(rng, _DUNES),
            tree=_pick(rng, _AUTUMN if kind not in (WINTER, SEA) and u() < 0.15 else _FOREST),
            flower=_pick(rng, _FLOWERS) if u() < 0.4 else None,
            water=water,
        )

    def sky(self, x: Float, y: Float) -> tuple[Float, NDArray[np.uint8]]:
        """Return colours float32 (..., 3) and classes uint8 (...) of the sky at pixel coordinates x, y (...)."""
        size = self.size
        up = np.clip((self.horizon - y) / size, 0, 1.2)
        colour = mix(self.horizon_colour, self.zenith, (np.clip(up * 1.75, 0, 1) ** 0.65)[..., None])
        pixels_off = np.hypot(x - self.sun_x, y - self.sun_y)
        away = pixels_off / size
        halo = np.exp(-((away / 0.2) ** 1.1)) * (0.42 if self.is_dusk else 0.22)
        colour = colour + halo[..., None] * _rgb((1, 0.72, 0.38) if self.is_dusk else (1, 0.95, 0.8))
        coverage = np.clip(self.sun_radius - pixels_off + 0.5, 0, 1) * self.sun_is_visible
        disc = _rgb((1.3, 1.14, 0.72) if self.is_dusk else (1.3, 1.25, 1.0))
        colour = mix(colour, disc, coverage[..., None])
        is_sun = coverage > 0.5
        # the cloud layer is a plane overhead: its texture shrinks towards the horizon
        q = 1 / (np.maximum(self.horizon - y, 0) / size + 0.07)
        cx = (x - size / 2) / size * q * 46 * self.cloud_scale + self.cloud_offset[0]
        cy = q * 46 * self.cloud_scale + self.cloud_offset[1]
        large, fine = self.world.clouds
        n = 0.85 * sample(large, cx, cy) + 0.5 * sample(fine, cx * 1.7 + 9, cy * 1.7) - self.cloud_cover
        alpha = smoothstep(n * 0.75 + 0.12) * np.clip((self.horizon - y) / size * 9 - 0.25, 0, 1) * 0.95
        lit = np.clip(0.97 - 0.17 * np.clip(n, 0, 1.6) + 0.1 * sample(fine, cx + 4, cy - 6), 0.55, 1.08)[..., None]
        if self.is_dusk:
            fade = np.clip(away * 1.3, 0, 1)[..., None]
            cloud = mix(_rgb([1.07, 0.63, 0.43]), _rgb([0.63, 0.43, 0.51]), fade) * lit
        else:
            cloud = _rgb([1.0, 1.0, 1.01]) * lit
        alpha = np.where(is_sun, alpha * 0.2, alpha)
        colour = mix(colour, cloud, alpha[..., None])
        classes = np.where(alpha > 0.5, CLOUD, np.where(is_sun, SUN, SKY)).astype(np.uint8)
        return colour, classes
