"""A job made by the workers of a Ray cluster. The process that began it hands out shards and writes them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from trt_vqgan.errors import BundleError, JobError, TrtVqganError
from trt_vqgan.manifest import Manifest, bundle_folder, manifest_to_json
from trt_vqgan.runtime.jobs.job_folder import JobFolder
from trt_vqgan.runtime.jobs.making import MadeShard
from trt_vqgan.runtime.jobs.one_machine import OnShard
from trt_vqgan.runtime.jobs.ray_cluster import Cluster, Crew
from trt_vqgan.runtime.jobs.ray_worker import SharedBundle, Worker, share_bundle
from trt_vqgan.runtime.jobs.shard_queue import ShardQueue
from trt_vqgan.runtime.jobs.shards import Shard, shard_request
from trt_vqgan.runtime.jobs.summary import WorkerSummary
from trt_vqgan.runtime.requests import Request

POLL_SECONDS = 1.0
START_SECONDS = 600.0
"""Time for the first worker to be ready: its machine may have to be given the bundle, and compile the kernels."""

MAX_FALSE_STARTS = 3
"""Deaths of a worker in a row before it has opened the bundle, after which it is given up."""

OnReady = Callable[[str, int], object]


def make_on_ray(
    request: Request,
    folder: JobFolder,
    *,
    bundle: Path,
    manifest: Manifest,
    cluster: Cluster,
    crew: Crew,
    on_shard: OnShard,
    on_ready: OnReady | None = None,
) -> list[WorkerSummary]:
    """Make the missing shards of ``folder`` by a cluster's workers; return what each did.

    Parameters
    ----------
    request : of the whole job.
    bundle, manifest : what draws. Machines of a cluster that have nothing at this path are sent a copy.
    on_shard : called with each shard when it is on the disk.
    on_ready : called with a worker's name and process id when it has opened the bundle.

    Raises
    ------
    JobError : no worker starts, all compute other bits, or too many die over one shard.
    """
    names = list(manifest.files) if len(cluster.cpus) > 1 else []
    shared = share_bundle(bundle.resolve(), manifest_to_json(manifest), names, bundle_folder(bundle.resolve()))
    return _Run(request, folder, shared, crew, on_shard, on_ready).run()


@dataclasses.dataclass(frozen=True)
class _Errand:
    """What a worker was asked: a shard, or None for opening the bundle."""

    worker: int
    shard: Shard | None


class _Run:
    def __init__(
        self,
        request: Request,
        folder: JobFolder,
        shared: SharedBundle,
        crew: Crew,
        on_shard: OnShard,
        on_ready: OnReady | None,
    ) -> None:
        self._request, self._folder, self._shared, self._crew = request, folder, shared, crew
        self._on_shard, self._on_ready = on_shard, on_ready
        self._queue = ShardQueue(folder.missing())
        self._summaries = [WorkerSummary(name=f"worker {i + 1}") for i in range(crew.workers)]
        self._actors: dict[int, Any] = {}
        self._errands: dict[Any, _Errand] = {}
        self._idle: set[int] = set()
        self._false_starts = [0] * crew.workers
        self._give_up_at = time.monotonic() + START_SECONDS

    def run(self) -> list[WorkerSummary]:
        try:
            if not self._queue.is_done:
                for worker in range(self._crew.workers):
                    self._start(worker)
            while not self._queue.is_done:
                ready, _ = ray.wait(list(self._errands), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    self._settle(reference)
                self._hand_out()
                self._check_started()
        finally:
            for actor in self._actors.values():
                ray.kill(actor)
        return self._summaries

    def _start(self, worker: int) -> None:
        remote: Any = ray.remote(Worker)
        actor = remote.options(num_cpus=self._crew.threads, scheduling_strategy="SPREAD").remote(
            self._folder.job, self._shared, threads=self._crew.threads
        )
        self._actors[worker] = actor
        self._errands[actor.open.remote()] = _Errand(worker, None)

    def _settle(self, reference: Any) -> None:
        errand = self._errands.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            self._failed(errand, error)
        except RayError:  # the process or its machine died, or the answer was lost with it
            self._died(errand)
        else:
            if errand.shard is None:
                self._opened(errand.worker, *answer)
            else:
                self._made(errand.worker, errand.shard, answer)

    def _opened(self, worker: int, place: str, process: int) -> None:
        self._false_starts[worker] = 0
        self._summaries[worker].place = place
        self._idle.add(worker)
        if self._on_ready is not None:
            self._on_ready(self._summaries[worker].name, process)

    def _made(self, worker: int, shard: Shard, made: MadeShard) -> None:
        self._idle.add(worker)
        if not self._queue.finished(shard):
            return  # another worker was faster
        self._folder.put(shard, made)
        self._summaries[worker].add(pictures=shard.count, codes=made.codes.size, seconds=made.seconds)
        self._on_shard(shard)

    def _failed(self, errand: _Errand, error: RayTaskError) -> None:
        """Raise what a worker raised; one that can't open the bundle as the job needs it is left out."""
        cause = error.cause
        if errand.shard is None and isinstance(cause, (JobError, BundleError)):
            self._refuse(errand.worker, str(cause))
        elif isinstance(cause, TrtVqganError):
            raise cause
        else:
            raise JobError(f"{self._summaries[errand.worker].name} failed: {cause!r}; please report it") from error

    def _died(self, errand: _Errand) -> None:
        worker = errand.worker
        self._summaries[worker].deaths += 1
        if errand.shard is not None:
            self._queue.lost(errand.shard, self._summaries[worker].name)
        else:
            self._false_starts[worker] += 1
        if self._false_starts[worker] >= MAX_FALSE_STARTS:
            self._refuse(worker, f"its process died {MAX_FALSE_STARTS} times before the bundle was open")
            return
        ray.kill(self._actors[worker])
        self._start(worker)

    def _refuse(self, worker: int, reason: str) -> None:
        self._summaries[worker].refused = reason
        ray.kill(self._actors.pop(worker))
        if not self._actors:
            raise JobError(f"no worker is left: {reason}")

    def _hand_out(self) -> None:
        for worker in sorted(self._idle):
            shard = self._queue.take(self._summaries[worker].name)
            if shard is None:
                return
            self._idle.remove(worker)
            reference = self._actors[worker].make.remote(shard_request(self._request, shard))
            self._errands[reference] = _Errand(worker, shard)

    def _check_started(self) -> None:
        if time.monotonic() > self._give_up_at and not any(summary.place for summary in self._summaries):
            raise JobError(
                f"no worker of {self._crew.threads} threads has started within {START_SECONDS:.0f} s; the cluster may "
                "be busy (`ray status` tells)"
            )
