"""Connections that end when their client neither sends nor reads."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_S = 30.0
"""Seconds in which a request's headers must come, once a connection is open or its first byte is here."""

UNREAD_S = 60.0
"""Seconds after which a client that doesn't read its answer is dropped."""


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP protocol with an end to its patience."""

    _silent: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._silent = self.loop.call_later(SILENT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take what comes; the clock runs from the first byte of a request to the end of its headers."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or (self.cycle is not None and not self.cycle.response_complete):
            self._stop("_silent")
        elif self._silent is None and not self.transport.is_closing():
            self._silent = self.loop.call_later(SILENT_S, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._stop("_unread")
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting for it."""
        super().resume_writing()
        self._stop("_unread")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        super().connection_lost(exc)
        self._stop("_silent")
        self._stop("_unread")

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
