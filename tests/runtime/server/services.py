"""Services and listeners for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trt_vqgan.runtime.pipeline import load
from trt_vqgan.runtime.server.events import Done, Event, Failed, PictureMade, PreviewMade
from trt_vqgan.runtime.server.service import Service
from trt_vqgan.runtime.server.settings import ServerSettings


def open_service(bundle: Path, **settings: Any) -> Service:
    """Return a service through ONNX Runtime on two threads."""
    pipeline = load(bundle, backend="onnxruntime", threads=2)
    return Service(pipeline, ServerSettings(**({"rows": 8, "drain_s": 20.0} | settings)))


class Noted:
    """A listener that notes what it is told, and lets a test wait for the end."""

    def __init__(self, then: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._ended = threading.Event()
        self._then = then

    def __call__(self, event: Event) -> None:
        assert not self._ended.is_set(), f"{event} follows the end"
        self.events.append(event)
        if self._then is not None:
            self._then(event)
        if isinstance(event, (Failed, Done)):
            self._ended.set()

    def pictures(self) -> list[PictureMade]:
        """Return the pictures in order, once all are there; raise what stopped them."""
        assert self._ended.wait(60), "nothing came"
        last = self.events[-1]
        if isinstance(last, Failed):
            raise last.error
        found = [event for event in self.events if isinstance(event, PictureMade)]
        return sorted(found, key=lambda event: event.index)

    @property
    def previews(self) -> list[PreviewMade]:
        """What was shown on the way."""
        return [event for event in self.events if isinstance(event, PreviewMade)]
