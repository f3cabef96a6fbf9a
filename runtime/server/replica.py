"""One of several processes that answer the requests of a server: an application asked by messages, not by a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

MESSAGES_AHEAD = 16
"""Of an answer, that wait to be fetched."""

PLAIN_SCOPE = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
               "client", "server")  # fmt: skip
"""What of a request's scope goes to another process."""


def plain_scope(scope: Scope) -> dict[str, Any]:
    """Return a request's scope without what belongs to the process that got it."""
    return {"asgi": {"version": "3.0", "spec_version": "2.3"}} | {
        name: scope[name] for name in PLAIN_SCOPE if name in scope
    }


async def answered(app: ASGIApp, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
    """Return an iterator over the messages with which an application answers a request.

    When the iterator is closed before its end, the application is told that the client has gone.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_AHEAD)
    gone = asyncio.Event()
    sent: list[bytes] = [body]

    async def receive() -> Message:
        if sent:
            return {"type": "http.request", "body": sent.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(dict(scope), receive, messages.put)
        finally:
            if not gone.is_set():
                await messages.put(None)

    running = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
        await running  # raises what the application raised
    finally:
        gone.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
