"""Where pictures go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


def picture_paths(out: Path, names: Sequence[str]) -> list[Path]:
    """Return a path for each picture: ``out/NAME.png``, or ``out`` itself where it ends in .png and there is one."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(names) != 1:
            raise click.UsageError(f"-o {out} names one picture, but there are {len(names)}; give a folder")
        return [out]
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"-o {out} is a file, wanted a folder or the name of a .png")
    return [out / f"{name}.png" for name in names]


def unique_stems(images: Sequence[Path]) -> list[str]:
    """Return a name for each image file, its own without the ending; equal ones get a number."""
    seen: dict[str, int] = {}
    names = []
    for image in images:
        count = seen[image.stem] = seen.get(image.stem, 0) + 1
        name = image.stem if count == 1 else f"{image.stem}-{count}"
        while name in names:
            name += "-again"
        names.append(name)
    return names
