"""One accepted request: its pictures through the scheduler or alone, decoded beside the steps, told to a listener."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import Cancelled, DeadlineError
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import Preview, Progress, Request
from trt_vqgan.runtime.scheduler.picture import PictureRequest
from trt_vqgan.runtime.scheduler.ticket import Ticket
from trt_vqgan.runtime.server.events import Done, Event, Failed, Listener, PictureMade, PreviewMade

Int64Array = npt.NDArray[np.int64]
Decoding = Callable[[Callable[[], None]], object]


class Job:
    """One request on its way.

    Parameters
    ----------
    pipeline : decodes, and draws what runs alone.
    request : what is made.
    listener : is told what happens.
    decoding : runs a call on the thread that decodes.
    deadline : as `time.monotonic` counts.
    images, previews : whether pictures are decoded, and shown while they are made.
    on_end : called once, when nothing follows.
    observe : told seconds by what they were spent on: "wait", "draw", "decode".
    """

    def __init__(
        self,
        pipeline: Pipeline,
        request: Request,
        *,
        listener: Listener,
        decoding: Decoding,
        deadline: float,
        images: bool,
        previews: bool,
        on_end: Callable[[Job], None],
        observe: Callable[[str, float], None],
    ) -> None:
        self.request, self.deadline = request, deadline
        self._pipeline, self._listener, self._decoding = pipeline, listener, decoding
        self._images, self._previews = images, previews
        self._on_end, self._observe = on_end, observe
        self._lock = threading.RLock()  # events are told one after the other
        self._left = request.count
        self._ended = False
        self._tickets: Sequence[Ticket] = ()
        self._unfinished: dict[int, Int64Array] = {}  # the newest codes of pictures whose preview waits to be decoded

    @staticmethod
    def picture(request: Request, index: int) -> PictureRequest:
        """Return what a scheduler is asked for, for one picture of a request."""
        return PictureRequest(
            condition=request.conditions[index],
            sampling=request.sampling,
            seed=request.seed,
            picture=request.first_picture + index,
            kept=None if request.kept is None else request.kept[index],
            guidance=request.guidance,
        )

    def pictures(self) -> list[PictureRequest]:
        """Return what the scheduler is asked for."""
        found = [self.picture(self.request, i) for i in range(self.request.count)]
        if not self._previews:
            return found
        every = self.request.preview_every
        return [
            dataclasses.replace(picture, on_codes=functools.partial(self._show_later, i), codes_every=every)
            for i, picture in enumerate(found)
        ]

    def follow(self, tickets: Sequence[Ticket]) -> None:
        """Take the scheduler's tickets of `pictures`."""
        self._tickets = tickets
        if self._ended:
            for ticket in tickets:
                ticket.cancel()
        for i, ticket in enumerate(tickets):
            ticket.future.add_done_callback(functools.partial(self._drawn, i, ticket))

    def run_alone(self) -> None:
        """Draw and decode here and now, outside the batch."""
        if self._over():
            return
        request = dataclasses.replace(
            self.request, on_progress=self._goes_on, on_preview=self._show if self._previews else None
        )
        start = time.monotonic()
        try:
            for picture, codes, image in self._pipeline.run(request):
                self._made(picture - request.first_picture, codes, image if self._images else None)
        except Cancelled:
            self._over()
        except Exception as error:  # noqa: BLE001  whatever it was, the listener waits for it
            self._tell(Failed(error=error))
        else:
            self._observe("draw", time.monotonic() - start)

    def cancel(self) -> None:
        """Stop within a step; nothing happens to a job that has ended."""
        self.fail(Cancelled("the request was cancelled"))

    def fail(self, error: Exception) -> None:
        """Stop as `cancel`, for another reason."""
        self._tell(Failed(error=error))

    # --- what happens -------------------------------------------------------------------------------------------------

    def _drawn(self, index: int, ticket: Ticket, future: concurrent.futures.Future[Int64Array]) -> None:
        error = future.exception()
        if error is not None:
            assert isinstance(error, Exception)
            self._tell(Failed(error=error))
            return
        if self._ended:
            return
        if ticket.started is not None:
            self._observe("wait", ticket.started - ticket.accepted)
            self._observe("draw", time.monotonic() - ticket.started)
        if self._images:
            self._decoding(functools.partial(self._decode, index, future.result()))
        else:
            self._made(index, future.result(), None)

    def _decode(self, index: int, codes: Int64Array) -> None:
        if self._over():
            return
        start = time.monotonic()
        try:
            image = self._pipeline.finish(self.request, index, codes)
        except Exception as error:  # noqa: BLE001  whatever it was, the listener waits for it
            self._tell(Failed(error=error))
            return
        self._observe("decode", time.monotonic() - start)
        self._made(index, codes, image)

    def _made(self, index: int, codes: Int64Array, image: npt.NDArray[np.uint8] | None) -> None:
        with self._lock:
            self._tell(PictureMade(index=index, codes=codes, image=image))
            self._left -= 1
            if not self._left:
                self._tell(Done())

    def _show_later(self, index: int, codes: Int64Array) -> None:
        """Decode a preview when there is time; one that still waits is replaced, so that they never pile up."""
        waits = index in self._unfinished
        self._unfinished[index] = codes
        if not waits and not self._ended:
            self._decoding(functools.partial(self._show_unfinished, index))

    def _show_unfinished(self, index: int) -> None:
        codes = self._unfinished.pop(index)
        if self._ended:
            return
        try:
            image = self._pipeline.decode_unfinished(codes)
        except Exception as error:  # noqa: BLE001  whatever it was, the listener waits for it
            self._tell(Failed(error=error))
            return
        self._tell(PreviewMade(index=index, done_codes=int((codes != FREE).sum()), image=image))

    def _show(self, preview: Preview) -> bool:
        index = preview.picture - self.request.first_picture
        self._tell(PreviewMade(index=index, done_codes=preview.done_codes, image=preview.image))
        return not self._ended

    def _goes_on(self, _: Progress) -> bool:
        return not self._over()

    def _over(self) -> bool:
        """Whether nothing more is to be done; past its deadline a job ends."""
        if not self._ended and time.monotonic() > self.deadline:
            self._tell(Failed(error=DeadlineError("the pictures were not finished by the request's deadline")))
        return self._ended

    def _tell(self, event: Event) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = isinstance(event, (Failed, Done))
            self._listener(event)
            ended = self._ended
        if ended:
            for ticket in self._tickets:
                ticket.cancel()
            self._on_end(self)
