"""A bounded queue that serves its clients in turn, each in the order in which it came."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of several clients. Not safe to call from several threads.

    Parameters
    ----------
    limit : items that may wait.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self._waiting: collections.OrderedDict[str, collections.deque[Item]] = collections.OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._waiting.values() for item in items)

    def room_for(self, count: int) -> bool:
        """Whether ``count`` more items may wait."""
        return self._count + count <= self.limit

    def put(self, client: str, items: Iterable[Item]) -> None:
        """Append items of one client; a new client comes last in the round."""
        added = list(items)
        assert self.room_for(len(added))
        if added:
            self._waiting.setdefault(client, collections.deque()).extend(added)
            self._count += len(added)

    def first(self) -> Item | None:
        """Return the item that is served next; None where nothing waits."""
        return next(iter(self), None)

    def pop(self) -> Item:
        """Take out `first`; its client comes last in the next round."""
        client, items = next(iter(self._waiting.items()))
        item = items.popleft()
        self._count -= 1
        if items:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
        return item

    def remove(self, client: str, item: Item) -> bool:
        """Take out an item wherever it waits; return whether it did."""
        items = self._waiting.get(client)
        if items is None or item not in items:
            return False
        items.remove(item)
        self._count -= 1
        if not items:
            del self._waiting[client]
        return True
