"""What stands before several replicas: it passes requests on, and a replica that dies takes no answer with it.

The same request gives the same answer in every replica, so one whose replica died before the answer began goes to
another. If that fails too, the client is told to come again. Of an answer that had begun, the connection ends short, so
that nobody takes a part of it for the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from trt_vqgan.errors import OverloadedError
from trt_vqgan.runtime.server.problems import Problem, problem_of
from trt_vqgan.runtime.server.replica import plain_scope

ATTEMPTS = 3
"""Replicas that a request is given to, one after the other."""

Ask = Callable[[dict[str, Any], bytes], AsyncGenerator[Message, None]]


class ReplicaLostError(Exception):
    """The replica that had a request died."""


class Front:
    """An ASGI application.

    Parameters
    ----------
    ask : gives a request, scope and body, to a replica; iterates over its answer's messages. Raises `ReplicaLostError`
        where the replica dies, and OverloadedError where none takes more.
    silence_s : seconds after which a replica that says nothing is given up.
    """

    def __init__(self, ask: Ask, *, silence_s: float) -> None:
        self._ask, self._silence_s = ask, silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by a replica."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"found {scope['type']!r}, wanted HTTP")
        body = await _body(receive)
        if body is None:
            return
        passing = asyncio.create_task(self._pass_on(plain_scope(scope), body, send))
        leaving = asyncio.create_task(_client_gone(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = passing.done()
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
        if not ended:
            return
        problem = passing.exception()
        if isinstance(problem, Problem):
            await JSONResponse(problem.body(), problem.status, headers=problem.headers())(scope, receive, send)
        elif problem is not None:
            raise problem

    async def _pass_on(self, scope: dict[str, Any], body: bytes, send: Send) -> None:
        for _ in range(ATTEMPTS):
            has_begun = False
            try:
                async with contextlib.aclosing(self._heard(scope, body)) as messages:
                    async for message in messages:
                        has_begun = True
                        await send(message)
                return
            except OverloadedError as error:
                raise problem_of(error) from None
            except (ReplicaLostError, TimeoutError):
                if has_begun:
                    raise
        raise Problem(503, f"{ATTEMPTS} replicas in turn died or said nothing over this request; try again later")

    async def _heard(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """Return the messages of a replica's answer; raise TimeoutError where it falls silent."""
        answer = self._ask(scope, body)
        try:
            while True:
                try:
                    message = await asyncio.wait_for(anext(answer), self._silence_s)
                except StopAsyncIteration:
                    return
                yield message
        finally:
            await answer.aclose()


async def _body(receive: Receive) -> bytes | None:
    """Return a request's body; None where the client goes before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
