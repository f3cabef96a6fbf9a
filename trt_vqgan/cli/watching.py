"""``--preview`` and ``--animate``: pictures while they are made."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_vqgan.runtime.animation import Animation
    from trt_vqgan.runtime.pipeline import Preview

    ImageArray = npt.NDArray[np.uint8]


def watching_options(function: Any) -> Any:
    """Add the options of pictures while they are made."""
    for option in (
        click.option(
            "--animate",
            type=options.PATH,
            metavar="FILE",
            help="Also write how the pictures come about, FILE.gif or FILE.webp; a frame every --preview codes.",
        ),
        click.option(
            "--preview",
            type=click.IntRange(min=1),
            metavar="N",
            help="Write each picture so far to NAME.preview.png every N codes; what isn't drawn yet is grey.  "
            "[default for --animate: a row of codes]",
        ),
    ):
        function = option(function)
    return function


class Watcher:
    """Writes previews, and collects the frames of an animation; use as a context around the generation.

    Parameters
    ----------
    paths : of the pictures, by their place.
    first : number of the first picture.
    batch_size : pictures made at once: a frame shows what is new in all of them.
    size : height and width of a picture.
    steps : previews that each picture has at most.
    previews : whether to write them to files.
    animate : file of the animation; None for none.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        first: int,
        batch_size: int,
        size: tuple[int, int],
        steps: int,
        previews: bool,
        animate: Path | None,
    ) -> None:
        from trt_vqgan.runtime.contact_sheet import ContactSheet

        self._paths, self._first, self._batch_size = paths, first, batch_size
        self._previews, self._animate = previews, animate
        self._stack = contextlib.ExitStack()
        self._animation: Animation | None = None
        self._steps = steps
        self._sheet = ContactSheet(len(paths), *size) if animate is not None and len(paths) > 1 else None
        self._size = size

    def __enter__(self) -> Watcher:
        from trt_vqgan.runtime.animation import writing

        if self._animate is not None:
            height, width = self._sheet.image.shape[:2] if self._sheet is not None else self._size
            batches = -(-len(self._paths) // self._batch_size)
            frames = batches * (self._steps + 1)
            self._animation = self._stack.enter_context(
                writing(self._animate, frames=frames, height=height, width=width)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for path in self._paths if self._previews else ():
            preview_path(path).unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)

    def __call__(self, preview: Preview) -> bool:
        """Take a picture so far; True, which lets the work go on."""
        from trt_vqgan.runtime.images import write_png

        index = preview.picture - self._first
        if self._previews:
            write_png(preview_path(self._paths[index]), preview.image)
        self._show(index, preview.image)
        return True

    def finished(self, index: int, image: ImageArray) -> None:
        """Take the finished picture ``first + index``."""
        if self._previews:
            preview_path(self._paths[index]).unlink(missing_ok=True)
        self._show(index, image)

    def _show(self, index: int, image: ImageArray) -> None:
        if self._sheet is not None:
            self._sheet.put(index, image)
        is_last_of_batch = (index + 1) % self._batch_size == 0 or index + 1 == len(self._paths)
        if self._animation is not None and is_last_of_batch:
            self._animation.add(image if self._sheet is None else self._sheet.image.copy())


def preview_path(path: Path) -> Path:
    """Return where the picture that goes to ``path`` is written while it is made."""
    return path.with_name(f"{path.stem}.preview.png")
