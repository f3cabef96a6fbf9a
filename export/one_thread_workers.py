"""Work done side by side by threads that each run torch on one processor.

Torch's own threads wait for each other at a spinning barrier after every product; where another process holds one of
the processors, each wait costs a time slice. Choosing a precision of `examples/landscapes/states/class` took 173 s so
on a busy machine, and 16 s with one thread.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


class OneThreadWorkers:
    """As many workers as torch has threads, until the end of a with block."""

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)  # what threads that begin later take over

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """Return ``function`` of each job, in the order of the jobs; gradients and modes are each worker's own."""
        return list(self._pool.map(function, jobs))
