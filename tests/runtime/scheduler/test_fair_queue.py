"""Clients in turn, each in its own order, within a bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_vqgan.runtime.scheduler.fair_queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_clients_are_served_in_turn() -> None:
    queue: FairQueue[str] = FairQueue(limit=9)
    queue.put("a", ["a1", "a2", "a3"])
    queue.put("b", ["b1"])
    queue.put("c", ["c1", "c2"])
    assert queue.first() == "a1"
    assert drained(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert queue.first() is None


def test_who_comes_later_waits_for_a_round_at_most() -> None:
    queue: FairQueue[str] = FairQueue(limit=99)
    queue.put("a", [f"a{i}" for i in range(50)])
    assert queue.pop() == "a0"
    queue.put("b", ["b1"])
    assert [queue.pop(), queue.pop(), queue.pop()] == ["a1", "b1", "a2"]


def test_removing() -> None:
    queue: FairQueue[str] = FairQueue(limit=3)
    queue.put("a", ["a1", "a2"])
    queue.put("b", ["b1"])
    assert not queue.room_for(1)
    assert queue.remove("a", "a1")
    assert not queue.remove("a", "a1")
    assert not queue.remove("c", "a2")
    assert queue.remove("b", "b1")
    assert drained(queue) == ["a2"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "pop", "remove"]))))
def test_it_holds_what_was_put_and_not_taken(steps: list[tuple[str, str]]) -> None:
    queue: FairQueue[int] = FairQueue(limit=1000)
    held: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for number, (client, what) in enumerate(steps):
        if what == "put":
            queue.put(client, [number])
            held[client].append(number)
        elif what == "pop" and len(queue):
            item = queue.pop()
            owner = next(name for name, items in held.items() if item in items)
            assert held[owner].pop(0) == item
        elif what == "remove" and held[client]:
            assert queue.remove(client, held[client].pop())
        assert len(queue) == sum(map(len, held.values()))
        assert sorted(queue) == sorted(item for items in held.values() for item in items)
