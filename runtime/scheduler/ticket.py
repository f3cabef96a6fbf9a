"""What the scheduler gives for a picture: its codes once they are drawn, and a way to stop it."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.scheduler.picture import PictureRequest

Int64Array = npt.NDArray[np.int64]


class Ticket:
    """One accepted picture.

    Attributes
    ----------
    future : its codes int64 (h, w), or why there are none: Cancelled, DeadlineError, ClosingError, ShapeError.
    client : whose it is.
    deadline : as `time.monotonic` counts, None for none.
    accepted, started : when it was accepted, and when it joined the batch; as `time.monotonic` counts.
    """

    def __init__(
        self,
        request: PictureRequest,
        *,
        client: str,
        deadline: float | None,
        on_cancel: Callable[[Ticket], object],
    ) -> None:
        self.request, self.client, self.deadline = request, client, deadline
        self.future: concurrent.futures.Future[Int64Array] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # so that its own cancel() does nothing: `cancel` is the way
        self.accepted = time.monotonic()
        self.started: float | None = None
        self._on_cancel = on_cancel

    def codes(self, timeout: float | None = None) -> Int64Array:
        """Return the codes int64 (h, w) once they are drawn; raise what stopped them, or TimeoutError."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Stop the picture within one step, whether it waits or runs; nothing happens where it is finished."""
        self._on_cancel(self)
