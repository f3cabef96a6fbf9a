"""Events of a job on their way from its threads to one client, and to nobody once the client has gone."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from trt_vqgan.runtime.server.events import Event, PreviewMade

KEEP_ALIVE_S = 15.0


class EventQueue:
    """A job's listener, read by one coroutine; a preview that nobody has read is replaced by the next one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: collections.deque[Event] = collections.deque()
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody listens any more
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        if isinstance(event, PreviewMade):
            for i, waiting in enumerate(self._events):
                if isinstance(waiting, PreviewMade) and waiting.index == event.index:
                    self._events[i] = event
                    return
        self._events.append(event)
        self._changed.set()

    async def get(self) -> Event:
        """Return the next event, once there is one."""
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()


class ClientGone(Exception):
    """The client has closed its connection."""


async def unless_gone(request: Request, wanted: Awaitable[Any]) -> Any:
    """Return what ``wanted`` returns; raise ClientGone, and cancel it, as soon as the client has gone.

    The request's body must have been read.
    """
    work = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientGone
    finally:
        for task in (work, gone):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events.

    Parameters
    ----------
    events : yields (name, JSON-ready data).
    on_end : called once, however the stream ends: with the last event, or because the client has gone.
    """

    def __init__(self, events: AsyncIterator[tuple[str, Any]], *, on_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_lines(events), media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _lines(events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[str]:
    """Yield the text of events, and now and then a comment, for which proxies keep the connection."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_S)
            if not done:
                yield ": still at it\n\n"
                continue
            event = following.result()
            if event is None:
                return
            name, data = event
            yield f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()
