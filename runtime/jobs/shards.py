"""How a job's pictures are cut into shards."""

from __future__ import annotations

import dataclasses

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.requests import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Pictures ``start`` to ``stop`` - 1 of a job, counted from its first one."""

    index: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Pictures."""
        return self.stop - self.start


def shards_of(count: int, *, shard_size: int) -> list[Shard]:
    """Return the shards of ``count`` pictures, each of ``shard_size`` but the last.

    Raises
    ------
    ShapeError : a shard of no pictures.
    """
    if shard_size < 1:
        raise ShapeError(f"shard_size: found {shard_size}, wanted at least 1")
    starts = range(0, count, shard_size)
    return [Shard(index=i, start=start, stop=min(start + shard_size, count)) for i, start in enumerate(starts)]


def shard_request(request: Request, shard: Shard) -> Request:
    """Return the part of a request that makes a shard: the same pictures, by their numbers, that the whole makes."""
    rows = slice(shard.start, shard.stop)
    windows = request.windows
    if windows is not None and windows.layouts:
        # layouts are taken in turn from a request's first picture on
        turn = shard.start % len(windows.layouts)
        windows = dataclasses.replace(windows, layouts=windows.layouts[turn:] + windows.layouts[:turn])
    return dataclasses.replace(
        request,
        conditions=request.conditions[rows],
        kept=None if request.kept is None else request.kept[rows],
        originals=None if request.originals is None else request.originals[rows],
        first_picture=request.first_picture + shard.start,
        windows=windows,
        on_progress=None,
        on_preview=None,
    )
