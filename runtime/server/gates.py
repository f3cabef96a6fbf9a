"""What every request must pass before anything is done for it: size and pace of its body, its key, and its origin."""

from __future__ import annotations

import asyncio
import hmac
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trt_vqgan.runtime.server.problems import Problem

GUARDED = ("/v1/", "/metrics")
"""Paths that need the key; the page, its files, the documentation and the health of the server don't."""


class Gates:
    """Middleware.

    Parameters
    ----------
    app : what is behind the gates.
    max_body_bytes : of a request.
    receive_s : seconds in which a body must come.
    api_key : None for none.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, receive_s: float, api_key: str | None) -> None:
        self._app = app
        self._max_body_bytes, self._receive_s = max_body_bytes, receive_s
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(scope["path"], headers)
            await self._app(scope, self._bounded(receive), noted_send)
        except Problem as problem:
            if started:
                raise
            await JSONResponse(problem.body(), problem.status, headers=problem.headers())(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None and origin != "null" and urlsplit(origin).netloc != host:
            raise Problem(403, f"origin: found {origin[:100]!r}, wanted pages of this server only")
        if self._key is not None and path.startswith(GUARDED):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self._key):
                raise Problem(401, "this server needs its key: send Authorization: Bearer KEY, or X-API-Key: KEY")
        said = headers.get("content-length", "")
        if said.isascii() and said.isdigit() and int(said) > self._max_body_bytes:
            raise self._too_large(int(said))

    def _bounded(self, receive: Receive) -> Receive:
        """Return ``receive``, which raises for a body that is too large, or too slow."""
        received = 0
        whole = False
        end = time.monotonic() + self._receive_s

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise Problem(408, f"body: had not come after {self._receive_s:g} s; send it faster") from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if received > self._max_body_bytes:
                    raise self._too_large(received)
            return message

        return bounded

    def _too_large(self, found: int) -> Problem:
        return Problem(413, f"body: found {found} bytes or more, at most {self._max_body_bytes} are taken")
