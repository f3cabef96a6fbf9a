"""A device that several parts of a model use: its transformer and the networks of its VQGANs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from trt_vqgan.runtime.device.interface import Device


class DeviceTurns:
    """A device, one thread at a time. A thread may take a turn inside its own, as a preview does in the decode loop.

    Parameters
    ----------
    device : closed with this.
    stream : a caller's, whose order our work keeps: it begins behind what is in that stream then, and what is put there
        afterwards runs behind it. None for no such order.
    """

    def __init__(self, device: Device, *, stream: int | None = None) -> None:
        self.device = device
        self._stream = stream
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads away."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Use the device."""
        with self._lock, self.device.active():
            if self._stream is not None:
                self.device.wait_for_stream(self._stream)
            try:
                yield
            finally:
                if self._stream is not None:
                    self.device.let_stream_wait(self._stream)

    def close(self) -> None:
        """Close the device; a second call does nothing. What is left on it is freed."""
        with self._lock:
            self.device.close()
