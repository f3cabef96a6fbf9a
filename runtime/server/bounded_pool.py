"""Threads for work that blocks, with a bound on how much of it may wait."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

from trt_vqgan.errors import OverloadedError

Result = TypeVar("Result")


class BoundedPool:
    """A few threads.

    Parameters
    ----------
    name : of its threads, and of its work in messages.
    threads : how many.
    limit : calls that may wait for one.
    """

    def __init__(self, name: str, *, threads: int, limit: int) -> None:
        self._name, self._limit = name, threads + limit
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=f"trt-vqgan-{name}")
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Calls that wait or run."""
        return self._held

    def submit(self, function: Callable[[], Result]) -> concurrent.futures.Future[Result]:
        """Return the future of a call.

        Raises
        ------
        OverloadedError : too many wait already.
        """
        with self._lock:
            if self._held >= self._limit:
                raise OverloadedError(
                    f"{self._name}: {self._held} requests wait already, and no more may; try again later"
                )
            self._held += 1
        future = self._pool.submit(function)
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        self._pool.shutdown(wait=True)

    def _done(self, _: object) -> None:
        with self._lock:
            self._held -= 1
