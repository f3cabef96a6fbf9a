"""Render a set of landscapes to memory-mapped arrays, in parallel, going on where an interrupted run stopped.

    python -m examples.landscapes.dataset SETS/train --worlds 0:240 --per-world 50
    python -m examples.landscapes.dataset SETS/held-out --worlds 100000:100040 --per-world 10
    python -m examples.landscapes.dataset SETS/train-near --worlds 480:540 --per-world 16 --zoom 8

With `--zoom Z` a world is rendered once, Z times as large, and its pictures are random crops of that: what a window
of a larger picture sees. Their depth is not that of a whole scene, so depth models don't train on them.

A set is a folder of `images.npy` (uint8), `labels.npy` (uint8), `depth.npy` (float16, metres, inf for the sky),
`kinds.npy` (uint8) and `set.json`; picture j of the i-th world is row i·per_world + j.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.landscapes.scenes import KINDS, World, render

HELD_OUT_FIRST = 100000
"""Training worlds have smaller seeds, held-out worlds this one and larger ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LandscapeSet:
    """Rendered pictures, memory-mapped read-only.

    Attributes
    ----------
    images : uint8 (n, S, S, 3).
    labels : uint8 (n, S, S).
    depth : float16 (n, S, S), metres, inf for the sky.
    kinds : uint8 (n,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    depth: NDArray[np.float16]
    kinds: NDArray[np.uint8]


def open_set(folder: Path) -> LandscapeSet:
    """Return a finished set; FileNotFoundError or ValueError when it is absent or unfinished."""
    description = json.loads((folder / "set.json").read_text())
    done = np.load(folder / "done.npy")
    if not done.all():
        raise ValueError(f"{folder}: {int(done.sum())} of {len(done)} worlds are rendered; run the same command again")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels", "depth", "kinds")}
    wanted = len(done) * description["per_world"]
    if len(arrays["images"]) != wanted:
        raise ValueError(f"{folder}: images.npy holds {len(arrays['images'])} pictures, wanted {wanted}")
    return LandscapeSet(**arrays)


def _render_world(job: tuple[Path, int, int, int, int, int]) -> int:
    folder, index, seed, per_world, size, zoom = job
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("images", "labels", "depth", "kinds")}
    world = World(seed)
    if zoom > 1:
        rng = np.random.default_rng((seed, 0))
        scene = render(world, rng, size=size * zoom, kind=index % len(KINDS))
    for j in range(per_world):
        row = index * per_world + j
        if zoom > 1:
            top, left = rng.integers(0, size * (zoom - 1) + 1, size=2)
            crop = (slice(top, top + size), slice(left, left + size))
            image, labels, depth, kind = scene[0][crop], scene[1][crop], scene[2][crop], scene[3]
        else:
            rng = np.random.default_rng((seed, j))
            image, labels, depth, kind = render(world, rng, size=size, kind=row % len(KINDS))
        arrays["images"][row], arrays["labels"][row] = image, labels
        arrays["depth"][row], arrays["kinds"][row] = depth.astype(np.float16), kind
    for array in arrays.values():
        array.flush()
    return index


def render_set(
    folder: Path, *, first_world: int, num_worlds: int, per_world: int, size: int, processes: int, zoom: int = 1
) -> None:
    """Render a set of num_worlds · per_world pictures, kinds in turn; worlds that are done already are kept.

    With ``zoom`` above 1 the pictures of a world are crops of one that is so many times as large.

    Raises
    ------
    ValueError : the range mixes training and held-out worlds, or the folder holds another set.
    """
    if first_world < HELD_OUT_FIRST < first_world + num_worlds:
        raise ValueError(f"worlds {first_world} to {first_world + num_worlds - 1} are part training, part held out")
    description = {"first_world": first_world, "num_worlds": num_worlds, "per_world": per_world, "size": size}
    if zoom > 1:
        description["zoom"] = zoom
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "set.json"
    if described.exists():
        found = json.loads(described.read_text())
        if found != description:
            raise ValueError(f"{folder} holds {found}, wanted {description}; choose another folder")
    else:
        n = num_worlds * per_world
        shapes = {"images": (n, size, size, 3), "labels": (n, size, size), "depth": (n, size, size), "kinds": (n,)}
        for name, shape in shapes.items():
            dtype = np.float16 if name == "depth" else np.uint8
            np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        np.save(folder / "done.npy", np.zeros(num_worlds, bool))
        described.write_text(json.dumps(description))
    done = np.load(folder / "done.npy")
    jobs = [(folder, int(i), first_world + int(i), per_world, size, zoom) for i in np.flatnonzero(~done)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for index in pool.imap_unordered(_render_world, jobs):
            done[index] = True
            np.save(folder / "done.npy", done)
            print(f"{int(done.sum())}/{num_worlds} worlds", flush=True)


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worlds", default="0:240", help="FIRST:END seeds (default %(default)s)")
    parser.add_argument("--per-world", type=int, default=50)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    first, end = (int(part) for part in options.worlds.split(":"))
    render_set(
        options.folder,
        first_world=first,
        num_worlds=end - first,
        per_world=options.per_world,
        size=options.size,
        processes=options.processes,
        zoom=options.zoom,
    )


if __name__ == "__main__":
    main()
