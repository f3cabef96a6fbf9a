"""Which shard is made next: none is lost with its worker, and none waits for a slow one."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from trt_vqgan.errors import JobError
from trt_vqgan.runtime.jobs.shards import Shard

MAX_COPIES = 2
"""Workers that make the same shard at once, when there is nothing else to do. What comes first counts, and both would
give the same codes."""

MAX_LOSSES = 3
"""Workers that one shard may lose: one that takes too much memory would go on killing them."""


class ShardQueue:
    """The unfinished shards of a job.

    Parameters
    ----------
    shards : to be made, in this order.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._waiting = collections.deque(shards)
        self._running: dict[int, list[str]] = {}  # by index, in the order they were begun: the workers that make it
        self._shards = {shard.index: shard for shard in shards}
        self._losses: collections.Counter[int] = collections.Counter()

    @property
    def is_done(self) -> bool:
        """Whether every shard is finished."""
        return not self._shards

    def take(self, worker: str) -> Shard | None:
        """Return the shard that an idle worker makes next; None where there is nothing for it.

        When none waits any more, it is the one that has been made for the longest, a second time.
        """
        if self._waiting:
            shard = self._waiting.popleft()
            self._running[shard.index] = [worker]
            return shard
        for index, workers in self._running.items():
            if len(workers) < MAX_COPIES and worker not in workers:
                workers.append(worker)
                return self._shards[index]
        return None

    def finished(self, shard: Shard) -> bool:
        """Note that a shard is made; return whether it is the first time."""
        self._running.pop(shard.index, None)
        return self._shards.pop(shard.index, None) is not None

    def lost(self, shard: Shard, worker: str) -> None:
        """Note that a worker died over a shard, which goes back unless another still makes it.

        Raises
        ------
        JobError : too many died over this one.
        """
        if shard.index not in self._shards:
            return
        self._losses[shard.index] += 1
        if self._losses[shard.index] >= MAX_LOSSES:
            raise JobError(
                f"shard {shard.index} (pictures {shard.start} to {shard.stop - 1} of the job) was given to "
                f"{MAX_LOSSES} workers, and all died; they may lack memory: give a smaller --batch-size, or fewer "
                "workers a machine"
            )
        workers = self._running[shard.index]
        workers.remove(worker)
        if not workers:
            del self._running[shard.index]
            self._waiting.appendleft(shard)
