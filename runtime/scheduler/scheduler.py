"""Draws the pictures of many callers in one running batch, on a thread of its own."""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import Cancelled, ClosingError, DeadlineError, OverloadedError, ShapeError
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.scheduler.fair_queue import FairQueue
from trt_vqgan.runtime.scheduler.picture import PictureRequest, RunningPicture, outside_the_batch
from trt_vqgan.runtime.scheduler.running_batch import RunningBatch
from trt_vqgan.runtime.scheduler.ticket import Ticket

Int64Array = npt.NDArray[np.int64]


@dataclasses.dataclass
class Counts:
    """What a scheduler has done since it began, and what it holds.

    Attributes
    ----------
    accepted, refused : pictures that came; each accepted one ends in one of the next four.
    finished, cancelled, overdue, failed : pictures that ended.
    steps, rows, codes : steps of the batch, rows computed in them, and codes drawn or kept.
    waiting, running : pictures that wait, and pictures in the batch.
    """

    accepted: int = 0
    refused: int = 0
    finished: int = 0
    cancelled: int = 0
    overdue: int = 0
    failed: int = 0
    steps: int = 0
    rows: int = 0
    codes: int = 0
    waiting: int = 0
    running: int = 0


class Scheduler:
    """Continuous batching of one model's pictures. Safe to call from several threads.

    A picture joins as soon as there is a row for it, and its codes are those that it has alone, to the bit: so what
    else runs changes only when it is finished.

    Parameters
    ----------
    generator : of the model.
    rows : of the batch, at least 2: pictures at once, or half as many with guidance. Each takes a cache of its own.
    queue_limit : pictures that may wait for a row.
    """

    def __init__(self, generator: CodeGenerator, *, rows: int, queue_limit: int) -> None:
        if rows < 2 or queue_limit < 1:
            raise ShapeError(f"scheduler: found {rows} rows and {queue_limit} places to wait, wanted at least 2 and 1")
        self._generator = generator
        self._batch = RunningBatch(generator, rows=rows)
        self._queue: FairQueue[Ticket] = FairQueue(limit=queue_limit)
        self._counts = Counts()
        self._running: dict[RunningPicture, Ticket] = {}
        self._to_cancel: collections.deque[Ticket] = collections.deque()
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._numbers = itertools.count()  # of tickets of one deadline
        self._closing = self._aborted = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="trt-vqgan-scheduler", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self._batch.rows

    @property
    def queue_limit(self) -> int:
        """Pictures that may wait."""
        return self._queue.limit

    def counts(self) -> Counts:
        """Return what has been done, and what is held, at this moment."""
        with self._changed:
            sizes = self.batch_sizes()
            return dataclasses.replace(
                self._counts, steps=sum(sizes), rows=sum(rows * steps for rows, steps in enumerate(sizes)),
                codes=self._batch.codes, waiting=len(self._queue), running=len(self._running),
            )  # fmt: skip

    def batch_sizes(self) -> list[int]:
        """Return the steps so far by the number of rows that they computed, from 0 to `rows`."""
        return list(self._batch.sizes)

    def submit(
        self, requests: Sequence[PictureRequest], *, client: str = "", deadline: float | None = None
    ) -> list[Ticket]:
        """Return a ticket for each picture; all are accepted, or none.

        Parameters
        ----------
        requests : pictures of the training size that the batch can draw, see `picture.outside_the_batch`.
        client : whose they are; clients are served in turn.
        deadline : as `time.monotonic` counts; a picture that isn't finished by then is dropped.

        Raises
        ------
        OverloadedError : too many pictures wait.
        ClosingError : the scheduler is closing.
        """
        for request in requests:
            reason = outside_the_batch(self._generator.spec, request)
            if reason:
                raise ShapeError(f"scheduler: found a picture that can't share a batch: {reason}")
        tickets = [Ticket(r, client=client, deadline=deadline, on_cancel=self._cancel) for r in requests]
        with self._changed:
            if self._closing:
                self._counts.refused += len(tickets)
                raise ClosingError("the server is shutting down and takes no new pictures; try again later")
            if not self._queue.room_for(len(tickets)):
                self._counts.refused += len(tickets)
                raise OverloadedError(
                    f"{len(self._queue)} pictures wait already, and at most {self._queue.limit} may; try again later"
                )
            self._counts.accepted += len(tickets)
            self._queue.put(client, tickets)
            if deadline is not None:
                for ticket in tickets:
                    heapq.heappush(self._deadlines, (deadline, next(self._numbers), ticket))
            self._changed.notify_all()
        return tickets

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more pictures, and end; return whether all that were accepted have been finished.

        Parameters
        ----------
        drain : finish what was accepted first; else, and after ``timeout`` seconds, it is dropped with ClosingError.
        """
        with self._changed:
            self._closing = True
            self._aborted = self._aborted or not drain
            self._changed.notify_all()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return not self._aborted
        with self._changed:
            self._aborted = True
            self._changed.notify_all()
        self._thread.join()
        return False

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._to_cancel.append(ticket)
            self._changed.notify_all()

    def _run(self) -> None:
        while self._prepare():
            try:
                finished, failed = self._batch.advance()
            except Exception as error:  # noqa: BLE001  whatever it was, those who wait for their pictures are told
                self._fail_all(error)
                continue
            for picture in finished:
                self._end(self._running.pop(picture), picture.codes())
            for picture, problem in failed:
                self._end(self._running.pop(picture), problem)
        self._fail_all(_closed())

    def _prepare(self) -> bool:
        """Wait until there is something to do, drop what is over, let pictures join; return whether to go on."""
        ended: list[tuple[Ticket, Int64Array | Exception]] = []
        with self._changed:
            while not (self._queue or self._running or self._to_cancel or self._closing):
                self._changed.wait()
            if self._aborted:
                ended = [(self._queue.pop(), _closed()) for _ in range(len(self._queue))]
            else:
                ended = [*self._drop(), *self._admit()]
            goes_on = not self._aborted and bool(self._running or self._queue or not self._closing)
        for ticket, outcome in ended:  # callbacks of futures run without the lock
            self._end(ticket, outcome)
        return goes_on

    def _drop(self) -> Iterator[tuple[Ticket, Exception]]:
        """Take out what was cancelled, and what is overdue."""
        while self._to_cancel:
            ticket = self._to_cancel.popleft()
            if self._take_out(ticket):
                yield ticket, Cancelled("the picture was cancelled")
        now = time.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].future.done()):
            deadline, _, ticket = heapq.heappop(self._deadlines)
            if self._take_out(ticket):
                seconds = deadline - ticket.accepted
                where = "waiting" if ticket.started is None else "being drawn"
                yield ticket, DeadlineError(f"the picture was still {where} after {seconds:.3g} s, its deadline")

    def _take_out(self, ticket: Ticket) -> bool:
        """Drop a ticket wherever it is, and free its rows; return whether it was anywhere."""
        if self._queue.remove(ticket.client, ticket):
            return True
        picture = next((picture for picture, held in self._running.items() if held is ticket), None)
        if picture is None:
            return False
        self._batch.leave(picture)
        del self._running[picture]
        return True

    def _admit(self) -> Iterator[tuple[Ticket, Int64Array]]:
        """Let pictures join while there is room, and take out those of which all codes are kept."""
        while (ticket := self._queue.first()) is not None and self._batch.has_room(ticket.request.width):
            self._queue.pop()
            ticket.started = time.monotonic()
            picture = RunningPicture(self._generator, ticket.request)
            if picture.finished:
                yield ticket, picture.codes()
            else:
                self._running[picture] = ticket
                self._batch.join(picture)

    def _end(self, ticket: Ticket, outcome: Int64Array | Exception) -> None:
        counts = self._counts
        with self._changed:
            if isinstance(outcome, np.ndarray):
                counts.finished += 1
            elif isinstance(outcome, Cancelled):
                counts.cancelled += 1
            elif isinstance(outcome, DeadlineError):
                counts.overdue += 1
            else:
                counts.failed += 1
        if isinstance(outcome, np.ndarray):
            ticket.future.set_result(outcome)
        else:
            ticket.future.set_exception(outcome)

    def _fail_all(self, error: Exception) -> None:
        """Fail every picture in the batch, whose caches can't be trusted any more."""
        with self._changed:
            self._batch.clear()
            tickets = list(self._running.values())
            self._running.clear()
        for ticket in tickets:
            self._end(ticket, error)


def _closed() -> ClosingError:
    return ClosingError("the server has shut down before this picture was finished")
