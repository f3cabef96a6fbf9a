"""A renderer of landscapes: RGB with its exact depth and exact segmentation, NumPy only.

A scene is a height field seen by a level camera. Each column of the picture is a fan of points at growing distance;
the running extreme of their projected rows tells where a pixel's ray first meets the ground. Water is the plane at
height 0 and reflects by a second pass with the camera mirrored in it. Everything is shaded at twice the picture's
side and averaged; labels and depth are read at one of those points, so they stay exact.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from examples.landscapes.light import CLASSES as CLASSES
from examples.landscapes.light import FOREST, GRASS, ROCK, SAND, SNOW, WATER, Light, mix
from examples.landscapes.noise import Float, sample
from examples.landscapes.noise import World as World
from examples.landscapes.terrain import DESERT, HILLS, LAKE, SEA, WINTER, Terrain, smoothstep
from examples.landscapes.terrain import KINDS as KINDS

PALETTE = np.array(
    [
        [120, 170, 230],
        [235, 235, 240],
        [30, 80, 160],
        [230, 205, 140],
        [110, 180, 70],
        [30, 90, 40],
        [120, 110, 105],
        [250, 250, 255],
        [255, 240, 120],
    ],
    np.uint8,
)
"""Colour in which a class is shown, uint8 (9, 3)."""

FAR = 4200.0
"""Distance at which the ground ends, metres."""
_SUPERSAMPLING = 2
_FOCAL = 0.95  # focal length over the picture's side: about 55 degrees of view


@functools.cache
def _distances() -> Float:
    """Distances of a column's points, metres, float32 (steps, 1): fine near the camera, coarse far off."""
    steps = [8.0]
    while steps[-1] < FAR:
        steps.append(steps[-1] * 1.0125 + 0.12)
    return np.array(steps, np.float32)[:, None]


def _first_hits(
    extreme: Float, rows: Float, wanted: Float, columns: NDArray[np.int64], *, rising: bool
) -> tuple[NDArray[np.bool_], Float]:
    """Return whether and at what distance each wanted row is first passed.

    Parameters
    ----------
    extreme : running extreme over distance of `rows`, float32 (steps, columns).
    rows : projected row of each point, float32 (steps, columns).
    wanted, columns : row (pixels) and column of each ray, (n,).
    rising : whether the extreme falls in row number (ground that rises to the horizon) or grows (its mirror image).

    Returns
    -------
    found : bool (n,).
    distance : float32 (n,), metres, interpolated between two points; meaningless where not found.
    """
    z = _distances()[:, 0]
    sign = np.float32(-1.0 if rising else 1.0)
    index = np.empty(len(wanted), np.int64)
    order = np.argsort(columns, kind="stable")
    bounds = np.searchsorted(columns[order], np.arange(extreme.shape[1] + 1))
    ascending = np.ascontiguousarray((sign * extreme).T)
    target = sign * wanted
    for column in range(extreme.shape[1]):
        rays = order[bounds[column] : bounds[column + 1]]
        if len(rays):
            index[rays] = np.searchsorted(ascending[column], target[rays])
    found = index < len(z)
    after = np.minimum(index, len(z) - 1)
    before = np.maximum(after - 1, 0)
    row_before, row_after = rows[before, columns], rows[after, columns]
    step = row_before - row_after
    step = np.where(np.abs(step) < 1e-6, 1e-6, step)
    t = np.clip((row_before - wanted) / step, 0, 1)
    return found, np.asarray(z[before] + (z[after] - z[before]) * t, np.float32)


def _look_past_foreground(
    seen: NDArray[np.bool_],
    z_seen: Float,
    mirrored: Float,
    wanted: Float,
    columns: NDArray[np.int64],
    z_water: Float,
) -> None:
    """Replace, in place, mirror hits that lie in front of the water that mirrors them by the first hit behind it.

    `seen`, `z_seen`, `wanted`, `columns`, `z_water` are (n,), `mirrored` (steps, columns). Without this
    an islet near the camera would cut a block of sky out of the reflections behind it.
    """
    wrong = np.flatnonzero(seen & (z_seen <= z_water * 0.9))
    if len(wrong) == 0:
        return
    z = _distances()[:, 0]
    passes = (mirrored[:, columns[wrong]] >= wanted[wrong]) & (z[:, None] > z_water[wrong] * 0.9)
    step = np.argmax(passes, 0)
    seen[wrong] = passes[step, np.arange(len(wrong))]
    z_seen[wrong] = z[step]


class _Shader:
    """Colours the ground of one scene."""

    def __init__(self, terrain: Terrain, light: Light) -> None:
        self.terrain = terrain
        self.light = light

    def _classes(self, height: Float, slope: Float, tint: Float, strata: Float) -> NDArray[np.int64]:
        kind, land = self.terrain.kind, self.terrain
        classes = np.full(height.shape, GRASS)
        if kind == DESERT:
            classes[:] = SAND
            classes[(slope > 1.05) | (height > land.low + land.dune_height * 1.5)] = ROCK
        elif kind == WINTER:
            classes[:] = SNOW
            classes[slope + 0.12 * tint > 1.0] = ROCK
        elif kind == LAKE:
            classes[(slope + 0.1 * tint > 0.72) | (height > 150 + 30 * tint)] = ROCK
            classes[(height > land.amplitude * 0.40 + 25 * tint) & (slope + 0.1 * strata < 1.6)] = SNOW
            classes[height < 1.4 + 0.3 * tint] = SAND
        elif kind == HILLS:
            classes[(slope + 0.1 * tint > 0.95) | (height > 210 + 20 * tint)] = ROCK
        else:
            classes[slope + 0.1 * tint > 0.6] = ROCK
            classes[height < 3.2 + 0.8 * tint] = SAND
        return classes

    def shade(self, x: Float, z: Float) -> tuple[Float, NDArray[np.int64]]:
        """Return colours float32 (n, 3) and classes int64 (n,) of the ground at (x, z), each (n,)."""
        land, light, kind = self.terrain, self.light, self.terrain.kind
        fine, coarse = land.world.textures
        height = land.height(x, z)
        step = np.maximum(1.2, z * 0.006)  # about a pixel's footprint: far slopes are averaged, not aliased
        slope_x = (land.height(x + step, z) - height) / step
        slope_z = (land.height(x, z + step) - height) / step
        slope = np.hypot(slope_x, slope_z)
        tint = sample(coarse, x * 0.5, z * 0.5)
        grain = sample(fine, x * 1.3 + land.offset[0], z * 1.3) * (0.35 + 0.65 * np.clip(300 / z, 0, 1))
        strata = sample(coarse, x * 0.5 + height * 0.5, height * 1.1 + z * 0.2)
        classes = self._classes(height, slope, tint, strata)
        classes[land.forest(x, z, height, slope, tint) & (classes != SAND)] = FOREST
        colours = np.zeros((9, 3), np.float32)
        colours[SAND], colours[GRASS], colours[FOREST] = light.sand, light.grass, light.tree
        colours[ROCK], colours[SNOW] = [0.43, 0.40, 0.37], [0.77, 0.80, 0.86]
        if kind == WINTER:
            colours[FOREST] = [0.20, 0.27, 0.24]
        base = colours[classes]
        rock = classes == ROCK
        if kind == DESERT:
            bands = 1 + 0.16 * np.sin(height[rock] * 0.28 + tint[rock])
            base[rock] = (light.sand * np.array([0.78, 0.6, 0.6], np.float32)) * bands[:, None]
        amplitude = np.array([0, 0, 0, 0.025, 0.09, 0.26, 0.14, 0.03, 0], np.float32)[classes]
        base = (
            base
            * (1 + amplitude * np.clip(grain, -2, 2) + np.where(rock, 0.16 * np.clip(strata, -2, 2), 0.05 * tint))[
                :, None
            ]
        )
        if kind == DESERT:  # wind ripples, only where a pixel can show them
            ripple = np.sin((x * 0.5 + z) * 1.1 + 3 * tint) * np.clip(60 / z - 0.4, 0, 1) * (classes == SAND)
            base = base * (1 + 0.05 * ripple)[:, None]
        tinted = base * np.stack([1 + 0.16 * tint, 1 + 0.03 * tint, 1 - 0.08 * tint], 1)
        base = np.where((classes == GRASS)[:, None], tinted, base)
        if light.flower is not None and kind == HILLS:
            bloom = sample(land.world.heights[2], land.offset[2] + x * 0.9, land.offset[3] + z * 0.9)
            bloom = smoothstep((bloom + 0.35 * grain - 0.75) * 1.6) * (classes == GRASS) * np.clip(500 / z, 0, 1) * 0.75
            base = mix(base, light.flower, bloom[:, None])
        normal = np.stack([-slope_x, np.ones_like(slope_x), -slope_z], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        direct = np.clip(normal @ light.direction, 0, 1) * np.where(classes == FOREST, 0.9, 1.0)
        open_sky = 0.9 + 0.1 * normal[:, 1]
        colour = base * (light.ambient * open_sky[:, None] + light.sun_colour * direct[:, None])
        haze = (1 - np.exp(-((z / light.fog_distance) ** 1.15))) * 0.92
        return mix(colour, light.fog, haze[:, None]), classes


def _water_colour(
    reflected: Float, *, light: Light, kind: int, below: Float, ripple: Float, x: Float, near: Float
) -> Float:
    """Return the colour of water, float32 (n, 3).

    `reflected` (n, 3) is what the mirror shows, `below` the ground's depth under water in metres, `ripple` the waves,
    `x` the pixel column, `near` 0 at the horizon and 1 at the picture's foot; each (n,).
    """
    shallow = light.water * np.float32(1.4) if light.is_dusk else np.array([0.35, 0.38, 0.30], np.float32)
    body = mix(shallow, light.water, (np.clip(below / 4, 0, 1) ** 0.5)[:, None])
    colour = mix(body * np.float32(1.1), reflected, (0.92 - 0.5 * near**0.8)[:, None])
    if light.is_dusk or kind == SEA:
        width = light.size * (0.03 + 0.13 * near)
        glitter = np.exp(-((np.abs(x - light.sun_x) / width) ** 1.5)) * (0.35 + 0.65 * smoothstep(ripple * 0.9 + 0.3))
        colour = colour + (glitter * (0.75 if light.is_dusk else 0.2))[:, None] * np.array([1, 0.68, 0.36], np.float32)
    return np.asarray(colour, np.float32)


def render(
    world: World, rng: np.random.Generator, *, size: int = 128, kind: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Float, int]:
    """Return a random picture of a world with its labels, depth and kind.

    Parameters
    ----------
    world : noise fields.
    rng : draws the scene; the same world and generator state give the same picture.
    size : side of the picture, pixels.
    kind : index into KINDS; None draws it.

    Returns
    -------
    image : uint8 (size, size, 3).
    labels : uint8 (size, size), indices into CLASSES.
    depth : float32 (size, size), metres along the view, inf for the sky.
    kind : the kind drawn.
    """
    kind = int(rng.integers(len(KINDS))) if kind is None else kind
    side = size * _SUPERSAMPLING
    focal = _FOCAL * side
    horizon = float(rng.uniform(0.42, 0.56)) * side
    light = Light.draw(world, rng, kind, side, horizon)
    terrain = Terrain.draw(world, rng, kind)
    margin, eye, lift, peak = (
        rng.uniform(5, 16),
        rng.uniform(9, 20),
        0.0 if kind == SEA else 8.0,
        rng.uniform(0.55, 0.9),
    )
    wave = (0.010, 0.010, 0.0, 0.006, 0.020)[kind] * side * rng.uniform(0.3, 1.2)

    z = _distances()
    ray = ((np.arange(side) + 0.5 - side / 2) / focal).astype(np.float32)
    x_grid = ray[None] * z
    z_grid = np.broadcast_to(z, x_grid.shape)
    height = terrain.height(x_grid, z_grid)
    camera = max(max(float(height[z[:, 0] < 90].max()), 0.0) + margin + lift, eye)
    highest = float(((height - camera) / z).max()) * focal
    if highest > horizon * peak:  # the tallest peak would leave the picture
        terrain.amplitude *= horizon * peak / highest * 0.97
        height = terrain.height(x_grid, z_grid)
    slope_x = np.abs(np.gradient(height, axis=1) / np.maximum(z / focal, 1e-3))
    tint = sample(world.textures[1], x_grid * 0.5, z_grid * 0.5)
    trees = terrain.forest(x_grid, z_grid, height, np.asarray(slope_x, np.float32), tint)
    canopy = np.abs(sample(world.textures[0], x_grid * 1.3 + terrain.offset[0], z_grid * 1.3))
    surface = np.maximum(height, 0) + trees * (3 + 4.5 * np.clip(canopy, 0, 2)) * smoothstep((z_grid - 60) / 60)
    rows = np.asarray(horizon - (surface - camera) / z * focal, np.float32)

    row_grid, column_grid = np.divmod(np.arange(side * side), side)
    y_all, x_all = (row_grid + 0.5).astype(np.float32), (column_grid + 0.5).astype(np.float32)
    image, labels = light.sky(x_all, y_all)
    depth = np.full(side * side, np.inf, np.float32)
    shader = _Shader(terrain, light)
    found, distance = _first_hits(np.minimum.accumulate(rows, 0), rows, y_all, column_grid, rising=True)
    ground = np.flatnonzero(found)
    z_hit = distance[ground]
    x_hit = ray[column_grid[ground]] * z_hit
    ground_height = terrain.height(x_hit, z_hit)
    is_water = ground_height < 0
    dry = ground[~is_water]
    depth[dry] = z_hit[~is_water]
    image[dry], labels[dry] = shader.shade(x_hit[~is_water], z_hit[~is_water])

    wet = ground[is_water]
    if len(wet):
        y, column = y_all[wet], column_grid[wet]
        z_water = np.minimum(camera * focal / np.maximum(y - horizon, 0.3), 9e3).astype(np.float32)
        depth[wet] = np.minimum(z_water, FAR)
        x_water = ray[column] * z_water
        ox, oy = terrain.offset[:2]
        ripple = sample(world.textures[1], x_water * 0.25 + ox, z_water * 0.9) * 0.55
        ripple += sample(world.textures[0], x_water * 0.6, z_water * 1.6 + oy) * 0.45
        y_mirror = y + ripple * wave * np.clip((y - horizon) / (0.25 * side), 0.05, 1)
        y_mirror = np.maximum(y_mirror, horizon + 0.5).astype(np.float32)
        # only land beyond a column's first water can be mirrored in it
        shore = np.argmax(height < 0, 0)
        beyond = (height > 0) & (np.arange(len(z))[:, None] > shore[None])
        mirrored = np.asarray(horizon + (np.where(beyond, surface, -1e4) + camera) / z * focal, np.float32)
        seen, z_seen = _first_hits(np.maximum.accumulate(mirrored, 0), mirrored, y_mirror, column, rising=False)
        _look_past_foreground(seen, z_seen, mirrored, y_mirror, column, z_water)
        reflected, _ = light.sky(x_all[wet], 2 * horizon - y_mirror)
        s = np.flatnonzero(seen)
        if len(s):
            reflected[s], _ = shader.shade(ray[column[s]] * z_seen[s], z_seen[s])
        near = np.clip((y - horizon) / (side - horizon), 0, 1)
        colour = _water_colour(
            reflected,
            light=light,
            kind=kind,
            below=-ground_height[is_water],
            ripple=ripple,
            x=x_all[wet],
            near=near,
        )
        haze = (1 - np.exp(-((z_water / light.fog_distance) ** 1.15))) * 0.8
        image[wet], labels[wet] = mix(colour, light.fog, haze[:, None]), WATER

    half = _SUPERSAMPLING // 2
    fine = np.clip(image, 0, 1).reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean((1, 3))
    pixels = np.round(fine**0.92 * 255).astype(np.uint8)
    labels = labels.reshape(side, side)[half::_SUPERSAMPLING, half::_SUPERSAMPLING]
    depth = depth.reshape(side, side)[half::_SUPERSAMPLING, half::_SUPERSAMPLING]
    return pixels, np.ascontiguousarray(labels), np.ascontiguousarray(depth), kind
