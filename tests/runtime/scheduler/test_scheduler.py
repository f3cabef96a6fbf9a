"""The scheduler's thread: every accepted picture ends, in time or with the reason why not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.scheduler.test_running_batch import COUNT, alone, generator_of, random_request
from tests.runtime.small_models import make_model
from trt_vqgan.errors import Cancelled, ClosingError, DeadlineError, OverloadedError, ShapeError
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.scheduler.picture import PictureRequest
from trt_vqgan.runtime.scheduler.scheduler import Scheduler


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> CodeGenerator:
    return generator_of(make_model(tmp_path_factory.mktemp("model")), 5)


@pytest.fixture
def scheduler(generator: CodeGenerator) -> Iterator[Scheduler]:
    made = Scheduler(generator, rows=4, queue_limit=40)
    yield made
    made.close(drain=False)


class Gate:
    """Holds the batch between two steps, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, codes: np.ndarray) -> None:
        self.reached.set()
        assert self.opened.wait(10)

    def request(self, seed: int = 0) -> PictureRequest:
        """Return a request at whose first code the batch is held."""
        return dataclasses.replace(plain(seed), on_codes=self)


def plain(seed: int) -> PictureRequest:
    return dataclasses.replace(random_request(seed, 5), kept=None, guidance=None)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def test_many_callers_get_the_codes_of_their_pictures(generator: CodeGenerator, scheduler: Scheduler) -> None:
    requests = [random_request(seed, 5) for seed in range(24)]

    def ask(i: int) -> np.ndarray:
        return scheduler.submit([requests[i]], client=f"client {i % 3}")[0].codes(30)

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(24)))
    for request, codes in zip(requests, found, strict=True):
        np.testing.assert_array_equal(codes, alone(generator, request))
    counts = scheduler.counts()
    assert (counts.accepted, counts.finished, counts.waiting, counts.running) == (24, 24, 0, 0)
    assert counts.rows > counts.steps > 0, "nothing ran together"


def test_all_of_a_request_are_accepted_or_none(scheduler: Scheduler) -> None:
    gate = Gate()
    first = scheduler.submit([gate.request()])
    assert gate.reached.wait(10)
    waiting = scheduler.submit([plain(seed) for seed in range(39)])
    with pytest.raises(OverloadedError, match="39 pictures wait already, and at most 40 may"):
        scheduler.submit([plain(0), plain(1)])
    last = scheduler.submit([plain(2)])
    assert scheduler.counts().refused == 2
    gate.opened.set()
    for ticket in first + waiting + last:
        ticket.codes(30)


def test_a_cancelled_picture_frees_its_row_within_a_step(scheduler: Scheduler) -> None:
    gate = Gate()
    held, *others = scheduler.submit([gate.request(), plain(1), plain(2), plain(3), plain(4)])
    assert gate.reached.wait(10)
    assert scheduler.counts().running == 4
    others[0].cancel()
    steps = scheduler.counts().steps
    seen: list[int] = []
    others[0].future.add_done_callback(lambda _: seen.append(scheduler.counts().steps))
    gate.opened.set()
    with pytest.raises(Cancelled):
        others[0].codes(10)
    assert seen[0] <= steps + 1
    for ticket in [held, *others[1:]]:
        ticket.codes(30)
    others[1].cancel()  # finished long ago
    assert scheduler.counts().cancelled == 1


def test_what_waits_can_be_cancelled(scheduler: Scheduler) -> None:
    gate = Gate()
    running = scheduler.submit([gate.request(), *map(plain, range(3))])
    waiting = scheduler.submit([plain(9)])
    assert gate.reached.wait(10)
    waiting[0].cancel()
    gate.opened.set()
    with pytest.raises(Cancelled):
        waiting[0].codes(10)
    for ticket in running:
        ticket.codes(30)


def test_deadlines_of_what_waits_and_what_runs(scheduler: Scheduler) -> None:
    gate = Gate()
    soon = time.monotonic() + 0.05
    running = scheduler.submit([gate.request(), *map(plain, range(3))], deadline=soon)
    waiting = scheduler.submit([plain(7)], deadline=soon)
    late = scheduler.submit([plain(8)], deadline=soon + 1000)
    assert gate.reached.wait(10)
    time.sleep(0.06)
    gate.opened.set()
    for ticket in running:
        with pytest.raises(DeadlineError, match="still being drawn after 0.0"):
            ticket.codes(10)
    with pytest.raises(DeadlineError, match="still waiting after 0.0"):
        waiting[0].codes(10)
    late[0].codes(30)
    assert scheduler.counts().overdue == 5


def test_clients_take_turns(scheduler: Scheduler) -> None:
    gate = Gate()
    order: list[str] = []

    def noted(name: str) -> Callable[[object], None]:
        return lambda _: order.append(name)

    blockers = scheduler.submit([gate.request(), *map(plain, range(3))], client="first")
    assert gate.reached.wait(10)
    greedy = scheduler.submit([plain(i) for i in range(12)], client="greedy")
    modest = scheduler.submit([plain(99)], client="modest")
    for i, ticket in enumerate(greedy):
        ticket.future.add_done_callback(noted(f"greedy {i}"))
    modest[0].future.add_done_callback(noted("modest"))
    gate.opened.set()
    for ticket in [*blockers, *greedy, *modest]:
        ticket.codes(30)
    assert order.index("modest") < 4, order


def test_closing_finishes_what_was_accepted(generator: CodeGenerator) -> None:
    scheduler = Scheduler(generator, rows=2, queue_limit=40)
    tickets = scheduler.submit([plain(seed) for seed in range(10)])
    assert scheduler.close()
    for ticket in tickets:
        assert ticket.codes(0).shape == (6, 6)
    with pytest.raises(ClosingError, match="shutting down"):
        scheduler.submit([plain(0)])
    assert scheduler.close()


def test_closing_at_once_tells_those_who_wait(generator: CodeGenerator) -> None:
    scheduler = Scheduler(generator, rows=2, queue_limit=40)
    gate = Gate()
    tickets = scheduler.submit([gate.request(), *map(plain, range(6))])
    assert gate.reached.wait(10)
    threading.Timer(0.05, gate.opened.set).start()
    assert not scheduler.close(timeout=0.001)
    for ticket in tickets:
        with pytest.raises(ClosingError, match="before this picture was finished"):
            ticket.codes(0)
    assert scheduler.counts().failed == 7


def test_a_failing_engine_fails_its_pictures_and_goes_on(
    generator: CodeGenerator, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = scheduler._batch
    step = batch._stepper.step
    fails = [True]

    def failing(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if fails.pop() if fails else False:
            raise MemoryError("no memory for a run")
        return step(tokens, lengths)

    monkeypatch.setattr(batch._stepper, "step", failing)
    ticket = scheduler.submit([plain(1)])[0]
    with pytest.raises(MemoryError, match="no memory for a run"):
        ticket.codes(10)
    again = scheduler.submit([plain(1)])[0]
    np.testing.assert_array_equal(again.codes(10), alone(generator, plain(1)))


def test_all_kept_is_finished_at_once(scheduler: Scheduler) -> None:
    kept = np.arange(COUNT)
    ticket = scheduler.submit([dataclasses.replace(plain(0), kept=kept)])[0]
    np.testing.assert_array_equal(ticket.codes(10).reshape(-1), kept)


def test_a_cancelled_asyncio_future_changes_nothing(scheduler: Scheduler) -> None:
    """asyncio cancels the future that it waits for; a ticket ends by its own cancel alone."""

    async def wait() -> None:
        ticket = scheduler.submit([plain(0)])[0]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(ticket.future), 0)
        assert ticket.codes(10).shape == (6, 6)

    asyncio.run(wait())


def test_wrong_pictures_and_settings_are_refused(generator: CodeGenerator, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="found 1 rows"):
        Scheduler(generator, rows=1, queue_limit=1)
    both_ways = generator_of(make_model(tmp_path, num_unmasked=9), 5)
    scheduler = Scheduler(both_ways, rows=2, queue_limit=4)
    with pytest.raises(ShapeError, match="can't share a batch"):
        scheduler.submit([plain(0)])
    scheduler.close()
