"""Progress on standard error: only at a terminal, and only of what takes longer than two seconds."""

from __future__ import annotations

import sys
import time
import types
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from trt_vqgan.runtime.pipeline import Progress

DELAY_SECONDS = 2.0
REDRAW_SECONDS = 0.2


class _Progress:
    """A bar that is closed at the end of a with block; made when there is something to show."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class CodesProgress(_Progress):
    """A bar with codes a second and the time left, fed by a pipeline's ``on_progress``."""

    def __call__(self, progress: Progress) -> bool:
        """Show ``progress``; True, which lets the work go on."""
        if not self._quiet:
            if self._bar is None:
                from tqdm import tqdm

                # A step of the model takes long enough that drawing costs nothing: every one may be drawn.
                self._bar = tqdm(
                    total=progress.total_codes,
                    unit="codes",
                    unit_scale=True,
                    delay=DELAY_SECONDS,
                    mininterval=REDRAW_SECONDS,
                    miniters=1,
                    leave=False,
                    file=sys.stderr,
                )
            self._bar.set_postfix_str(f"{progress.pictures_done} pictures", refresh=False)
            self._bar.update(progress.done_codes - self._bar.n)
        return True


class PicturesProgress(_Progress):
    """A bar of pictures done, for commands that take many; `echo` prints a line above it."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        super().__init__(quiet=quiet or total < 2)
        self._total, self._done = total, 0
        self._start = time.perf_counter()

    def finished(self) -> None:
        """Count one more picture."""
        self._done += 1
        if self._quiet or (self._bar is None and time.perf_counter() - self._start < DELAY_SECONDS):
            return
        if self._bar is None:
            from tqdm import tqdm

            seconds = time.perf_counter() - self._start
            self._bar = tqdm(total=self._total, unit="pictures", mininterval=REDRAW_SECONDS, leave=False,
                             file=sys.stderr)  # fmt: skip
            self._bar.start_t -= seconds  # so that the time left is told from the first one on
        self._bar.update(self._done - self._bar.n)

    def echo(self, line: str) -> None:
        """Print a line on standard output; a bar that is shown moves below it."""
        if self._bar is None:
            click.echo(line)
            return
        self._bar.clear()
        click.echo(line)
        self._bar.refresh()


class ShardsProgress(_Progress):
    """A bar over all shards of a job, with those that were there before; counts codes.

    Parameters
    ----------
    total_shards, done_shards : all, and those that were there.
    total_codes, done_codes : of them.
    """

    def __init__(self, total_shards: int, *, done_shards: int, total_codes: int, done_codes: int, quiet: bool) -> None:
        super().__init__(quiet=quiet or done_shards == total_shards)
        self._shards, self._total_shards = done_shards, total_shards
        self._codes, self._total_codes, self._first = done_codes, total_codes, done_codes
        self._start = time.perf_counter()

    def within_shard(self, codes: int) -> None:
        """Show ``codes`` of the shard that is made."""
        self._show(self._codes + codes)

    def finished(self, codes: int) -> None:
        """Count a shard of ``codes`` codes."""
        self._shards += 1
        self._codes += codes
        self._show(self._codes)

    def _show(self, codes: int) -> None:
        seconds = time.perf_counter() - self._start
        if self._quiet or (self._bar is None and seconds < DELAY_SECONDS):
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total_codes, initial=self._first, unit="codes", unit_scale=True,
                             mininterval=REDRAW_SECONDS, miniters=1, leave=False, file=sys.stderr)  # fmt: skip
            self._bar.start_t -= seconds  # so that the time left is told from the first shard on
        self._bar.set_postfix_str(f"{self._shards} of {self._total_shards} shards", refresh=False)
        self._bar.update(codes - self._bar.n)
