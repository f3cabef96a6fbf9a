"""Which status an error is answered with, and the one message that goes with it."""

from __future__ import annotations

import http

from trt_vqgan.errors import (
    Cancelled,
    ClosingError,
    ConditionError,
    DeadlineError,
    ImageError,
    OverloadedError,
    ShapeError,
    TooLargeError,
)

RETRY_AFTER_S = 2
LONGEST_MESSAGE = 600
CLIENT_GONE = 499  # as proxies log it; nobody reads the answer

UNREAD = (401, 403, 408, 413, 415)
"""Statuses of requests whose body may not have been read to its end."""

STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (TooLargeError, http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (ShapeError, http.HTTPStatus.BAD_REQUEST),
    (ConditionError, http.HTTPStatus.BAD_REQUEST),
    (ImageError, http.HTTPStatus.BAD_REQUEST),
    (OverloadedError, http.HTTPStatus.TOO_MANY_REQUESTS),
    (ClosingError, http.HTTPStatus.SERVICE_UNAVAILABLE),
    (MemoryError, http.HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineError, http.HTTPStatus.GATEWAY_TIMEOUT),
    (Cancelled, CLIENT_GONE),
)
"""The first class that an error is of counts."""


class Problem(Exception):
    """An answer that says what is wrong: a status, and a message of one line, whatever it quotes."""

    def __init__(self, status: int, message: str) -> None:
        line = " ".join(message.split())[:LONGEST_MESSAGE]
        self.status, self.message = int(status), line.encode("utf-8", "replace").decode("utf-8")
        super().__init__(self.message)

    def body(self) -> dict[str, object]:
        """Return the answer's JSON."""
        return {"error": {"status": self.status, "message": self.message}}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        if self.status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            return {"Retry-After": str(RETRY_AFTER_S)}
        headers = {"WWW-Authenticate": "Bearer"} if self.status == http.HTTPStatus.UNAUTHORIZED else {}
        # what is left of a body that nobody reads must not be taken for the next request
        return headers | ({"Connection": "close"} if self.status in UNREAD else {})


def problem_of(error: Exception) -> Problem:
    """Return how an error is answered: errors that nobody expects with 500, and no more than their kind."""
    if isinstance(error, Problem):
        return error
    for kind, status in STATUSES:
        if isinstance(error, kind):
            message = str(error) or "the server has not enough memory for this; ask for less, or later"
            return Problem(status, message)
    return Problem(500, f"the server failed ({type(error).__name__}); its log says why")
