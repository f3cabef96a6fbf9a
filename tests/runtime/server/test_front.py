"""Requests are passed on to replicas, whatever happens to those; tests/runtime/test_ray_app.py has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="starlette isn't installed; `pip install '.[serve]'` installs it")

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse

from trt_vqgan.errors import OverloadedError
from trt_vqgan.runtime.server.front import ATTEMPTS, Front, ReplicaLostError
from trt_vqgan.runtime.server.replica import answered

SCOPE: dict[str, Any] = {
    "type": "http", "method": "POST", "path": "/v1/generate", "query_string": b"a=1", "headers": [(b"x-key", b"k")],
    "app": object(), "state": {},
}  # fmt: skip


class Client:
    """One connection: a body in two parts, and what is sent back."""

    def __init__(self, *, leaves: bool = False) -> None:
        self._parts = [
            {"type": "http.request", "body": b"ab", "more_body": True},
            {"type": "http.request", "body": b"cd", "more_body": False},
        ]
        self._leaves = leaves
        self.messages: list[Any] = []

    async def receive(self) -> Any:
        if self._parts:
            return self._parts.pop(0)
        if not self._leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def run(front: Front, client: Client) -> Client:
    asyncio.run(asyncio.wait_for(front(SCOPE, client.receive, client.send), 10))
    return client


async def echo(scope: Any, receive: Any, send: Any) -> None:
    request = Request(scope, receive)
    body = await request.body()
    await JSONResponse({"path": request.url.path, "key": request.headers["x-key"], "body": body.decode()})(
        scope, receive, send
    )


def test_a_request_and_its_answer() -> None:
    asked: list[dict[str, Any]] = []

    def ask(scope: dict[str, Any], body: bytes) -> Any:
        asked.append(scope)
        return answered(echo, scope, body)

    client = run(Front(ask, silence_s=5), Client())
    assert client.status == 200
    assert client.body == b'{"path":"/v1/generate","key":"k","body":"abcd"}'
    assert "app" not in asked[0]
    assert "state" not in asked[0]


@pytest.mark.parametrize("losses", range(ATTEMPTS + 1))
def test_replicas_that_die_before_they_answer(losses: int) -> None:
    tries = 0

    async def ask(scope: dict[str, Any], body: bytes) -> AsyncGenerator[Any, None]:
        nonlocal tries
        tries += 1
        if tries <= losses:
            raise ReplicaLostError
        async for message in answered(echo, scope, body):
            yield message

    client = run(Front(ask, silence_s=5), Client())
    assert tries == min(losses + 1, ATTEMPTS)
    if losses < ATTEMPTS:
        assert client.status == 200
        return
    assert client.status == 503
    assert (b"retry-after", b"2") in client.messages[0]["headers"]
    assert b"try again later" in client.body


def test_a_replica_that_dies_within_its_answer() -> None:
    async def ask(scope: dict[str, Any], body: bytes) -> AsyncGenerator[Any, None]:
        yield {"type": "http.response.start", "status": 200, "headers": []}
        yield {"type": "http.response.body", "body": b"half", "more_body": True}
        raise ReplicaLostError

    client = Client()
    with pytest.raises(ReplicaLostError):  # the server then ends the connection short
        run(Front(ask, silence_s=5), client)
    assert client.body == b"half"


def test_a_replica_that_says_nothing() -> None:
    closed = 0

    async def ask(scope: dict[str, Any], body: bytes) -> AsyncGenerator[Any, None]:
        nonlocal closed
        try:
            await asyncio.Event().wait()
        finally:
            closed += 1
        yield {}

    assert run(Front(ask, silence_s=0.01), Client()).status == 503
    assert closed == ATTEMPTS


def test_replicas_that_take_no_more() -> None:
    async def ask(scope: dict[str, Any], body: bytes) -> AsyncGenerator[Any, None]:
        raise OverloadedError("too many")
        yield

    client = run(Front(ask, silence_s=5), Client())
    assert client.status == 429
    assert (b"retry-after", b"2") in client.messages[0]["headers"]


def test_a_client_that_goes() -> None:
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def parts() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"."
                await asyncio.sleep(0.001)

        try:
            await StreamingResponse(parts())(scope, receive, send)
        except (ClientDisconnect, asyncio.CancelledError):
            told.set()
            raise
        told.set()

    run(Front(lambda scope, body: answered(app, scope, body), silence_s=5), Client(leaves=True))
    assert told.is_set()


def test_an_application_that_fails() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        run(Front(lambda scope, body: answered(app, scope, body), silence_s=5), Client())


def test_the_life_of_the_application() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(
        Front(lambda scope, body: answered(echo, scope, body), silence_s=5)({"type": "lifespan"}, receive, send)
    )
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
