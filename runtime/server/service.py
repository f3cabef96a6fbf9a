"""A pipeline and its scheduler, behind limits: what every front end of a server calls."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from trt_vqgan.errors import ClosingError, ShapeError, TooLargeError
from trt_vqgan.runtime.pipeline import Pipeline, load
from trt_vqgan.runtime.requests import GenerateArguments, Request
from trt_vqgan.runtime.scheduler.picture import outside_the_batch
from trt_vqgan.runtime.scheduler.scheduler import Counts, Scheduler
from trt_vqgan.runtime.server.bounded_pool import BoundedPool
from trt_vqgan.runtime.server.events import Listener
from trt_vqgan.runtime.server.job import Job
from trt_vqgan.runtime.server.settings import ServerSettings

Result = TypeVar("Result")
Observer = Callable[[str, float], None]

BLOCKING_THREADS = 2


class Service:
    """Everything that a server does but speak HTTP. Safe to call from several threads.

    Parameters
    ----------
    pipeline : closed with the service.
    settings : limits.
    """

    def __init__(self, pipeline: Pipeline, settings: ServerSettings | None = None) -> None:
        self.pipeline = pipeline
        self.settings = settings or ServerSettings()
        self.scheduler: Scheduler | None = None
        """Draws codes; None for a VQGAN alone."""
        if pipeline.spec.transformer is not None:
            self.scheduler = Scheduler(
                pipeline.code_generator, rows=self.settings.rows, queue_limit=self.settings.queue_limit
            )
        limit = self.settings.blocking_limit
        self._blocking = BoundedPool("reading", threads=BLOCKING_THREADS, limit=limit)
        self._alone = BoundedPool("outside the batch", threads=1, limit=self.settings.alone_limit)
        self._answering = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="trt-vqgan-answer")
        self._decoding = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="trt-vqgan-decode")
        self._jobs: set[Job] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._observers: list[Observer] = []

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        settings: ServerSettings | None = None,
    ) -> Service:
        """Return a service of a bundle, opened as `trt_vqgan.load` does."""
        pipeline = load(bundle, backend=backend, device=device, threads=threads)
        try:
            return cls(pipeline, settings)
        except BaseException:
            pipeline.close()
            raise

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self._closing

    @property
    def jobs(self) -> int:
        """Requests for pictures under way."""
        return len(self._jobs)

    def counts(self) -> Counts:
        """Return what the scheduler has done; nothing for a VQGAN alone."""
        return Counts() if self.scheduler is None else self.scheduler.counts()

    def on_seconds(self, observer: Observer) -> None:
        """Tell ``observer`` of seconds spent on each picture: ("wait" | "draw" | "decode", seconds)."""
        self._observers.append(observer)

    def blocking(self, function: Callable[[], Result]) -> concurrent.futures.Future[Result]:
        """Return the future of a call on a thread for such: reading a request, encoding, decoding.

        Raises
        ------
        OverloadedError : too many wait already.
        ClosingError : the service is closing.
        """
        self._check_open()
        return self._blocking.submit(function)

    def answering(self, function: Callable[[], Result]) -> concurrent.futures.Future[Result]:
        """Return the future of a call on the thread that turns finished pictures into files."""
        return self._answering.submit(function)

    def prepare(self, arguments: GenerateArguments) -> Request:
        """Return what `Pipeline.generate` would do with these arguments, within the limits. It blocks.

        Raises
        ------
        ConditionError, ShapeError : a wrong condition or setting.
        TooLargeError : more pictures, or pixels, than are allowed.
        """
        resolution = self.pipeline.spec.autoencoder.resolution
        width, height = arguments.get("size") or (resolution, resolution)
        # before anything is computed
        self._check_size(arguments.get("n") or 1, width * height)
        request = self.pipeline.request(**arguments)
        self._check_size(request.count, width * height)
        return request

    def _check_size(self, count: int, pixels: int) -> None:
        if count > self.settings.max_pictures:
            raise ShapeError(f"n: found {count} pictures, at most {self.settings.max_pictures} are made at once")
        if count * pixels > self.settings.max_pixels:
            raise TooLargeError(
                f"size: found {count} pictures of {pixels} pixels, wanted at most {self.settings.max_pixels} pixels in "
                "all; ask for fewer or smaller ones"
            )

    def why_alone(self, request: Request) -> str:
        """Return why a request's pictures are drawn outside the running batch, one request at a time; "" if not."""
        if request.windows is not None:
            return "the picture is larger than the training size"
        for i in range(request.count):
            reason = outside_the_batch(self.pipeline.spec, Job.picture(request, i))
            if reason:
                return reason
        return ""

    def submit(
        self,
        request: Request,
        listener: Listener,
        *,
        client: str = "",
        seconds: float | None = None,
        images: bool = True,
        previews: bool = False,
    ) -> Job:
        """Begin to make the pictures of a request, and return at once; ``listener`` is told the rest.

        Parameters
        ----------
        request : of `prepare`.
        client : whose it is; clients are served in turn.
        seconds : in which it must be finished; the settings' by default.
        images : whether pictures are decoded; else there are codes only.
        previews : whether pictures are shown after every ``request.preview_every`` codes; those that nobody has looked
            at yet are replaced by the next one.

        Raises
        ------
        OverloadedError : too many pictures wait already.
        ClosingError : the service is closing.
        """
        self._check_open()
        settings = self.settings
        allowed = min(settings.deadline_s if seconds is None else seconds, settings.max_deadline_s)
        job = Job(
            self.pipeline,
            request,
            listener=listener,
            decoding=self._decoding.submit,
            deadline=time.monotonic() + allowed,
            images=images,
            previews=previews,
            on_end=self._end,
            observe=self._observe,
        )
        with self._changed:
            self._jobs.add(job)
        try:
            if self.scheduler is None or self.why_alone(request):
                self._alone.submit(job.run_alone)
            else:
                job.follow(self.scheduler.submit(job.pictures(), client=client, deadline=job.deadline))
        except BaseException:
            self._end(job)
            raise
        return job

    def close(self, *, drain: bool = True) -> bool:
        """Take no more requests, finish those under way within the settings' time, and close the pipeline.

        Returns
        -------
        Whether all were finished.
        """
        self._closing = True
        end = time.monotonic() + (self.settings.drain_s if drain else 0.0)
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs, timeout=max(0.0, end - time.monotonic()))
            left = list(self._jobs)
        for job in left:
            job.fail(ClosingError("the server shut down before the pictures were finished"))
        if self.scheduler is not None:
            self.scheduler.close(drain=False)
        for pool in (self._alone, self._blocking):
            pool.close()
        self._decoding.shutdown(wait=True)
        self._answering.shutdown(wait=True)
        self.pipeline.close()
        return not left

    def _check_open(self) -> None:
        if self._closing:
            raise ClosingError("the server is shutting down and takes no new requests; try again later")

    def _end(self, job: Job) -> None:
        with self._changed:
            self._jobs.discard(job)
            self._changed.notify_all()

    def _observe(self, what: str, seconds: float) -> None:
        for observer in self._observers:
            observer(what, seconds)
