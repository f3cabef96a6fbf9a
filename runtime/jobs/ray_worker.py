"""A worker of a job on Ray: a process that keeps the bundle open and makes shards."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import ray

from trt_vqgan.errors import BundleError, JobError
from trt_vqgan.runtime.jobs.bundle_copy import copied_bundle, has_bundle
from trt_vqgan.runtime.jobs.job import Job
from trt_vqgan.runtime.jobs.making import MadeShard, make_shard
from trt_vqgan.runtime.jobs.probe import probe
from trt_vqgan.runtime.pipeline import Pipeline, load
from trt_vqgan.runtime.requests import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedBundle:
    """Where a worker finds the bundle.

    Attributes
    ----------
    path : on the machine that began the job; workers look there first.
    manifest_text : the bundle's manifest.
    files : in Ray's object store, by name, for workers that have nothing at ``path``; empty where all have it.
    """

    path: str
    manifest_text: str
    files: dict[str, Any]


class Worker:
    """Runs as a Ray actor. Opening takes long, so it is a method: a worker that can't be opened tells why."""

    def __init__(self, job: Job, bundle: SharedBundle, *, threads: int) -> None:
        self._job, self._bundle, self._threads = job, bundle, threads
        self._pipeline: Pipeline | None = None

    def open(self) -> tuple[str, int]:
        """Open the bundle; return machine and process.

        Raises
        ------
        JobError : this machine doesn't compute the job's bits.
        BundleError : it has another bundle, or none.
        """
        pipeline = load(self._path(), backend=self._job.backend, threads=self._threads)
        place = f"{platform.node()}, process {os.getpid()}"
        if pipeline.bundle_id != self._job.bundle_id:
            raise BundleError(f"{place}: has bundle {pipeline.bundle_id}, the job is of {self._job.bundle_id}")
        found = probe(pipeline)
        if found != self._job.probe:
            raise JobError(
                f"{place}: computes other bits than the machine that began the job ({found}, not {self._job.probe}): "
                "another processor, or release of ONNX Runtime, whose codes could differ"
            )
        self._pipeline = pipeline
        return place, os.getpid()

    def make(self, request: Request) -> MadeShard:
        """Return the pictures of a shard's request."""
        assert self._pipeline is not None, "open comes first"
        return make_shard(self._pipeline, request, codes_only=self._job.codes_only)

    def _path(self) -> Path:
        bundle = self._bundle
        if has_bundle(Path(bundle.path), self._job.bundle_id) or not bundle.files:
            return Path(bundle.path)
        return copied_bundle(bundle.manifest_text, lambda name: bytes(ray.get(bundle.files[name])))


def share_bundle(path: Path, manifest_text: str, names: list[str], folder: Path) -> SharedBundle:
    """Put a bundle's files into Ray's object store, for machines that don't have them."""
    files = {name: ray.put((folder / name).read_bytes()) for name in names}
    return SharedBundle(path=str(path), manifest_text=manifest_text, files=files)
