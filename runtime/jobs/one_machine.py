"""A job made by this process, shard after shard."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable

from trt_vqgan.runtime.jobs.job_folder import JobFolder
from trt_vqgan.runtime.jobs.making import make_shard
from trt_vqgan.runtime.jobs.shards import Shard, shard_request
from trt_vqgan.runtime.jobs.summary import WorkerSummary
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import OnProgress, Request

OnShard = Callable[[Shard], object]


def make_here(
    pipeline: Pipeline, request: Request, folder: JobFolder, *, on_shard: OnShard, on_progress: OnProgress | None = None
) -> WorkerSummary:
    """Make the missing shards of ``folder``; return what was done.

    Parameters
    ----------
    request : of the whole job.
    on_shard : called with each shard when it is on the disk.
    on_progress : called while a shard is made.
    """
    summary = WorkerSummary(name="worker 1", place=f"{platform.node()}, process {os.getpid()}")
    for shard in folder.missing():
        part = dataclasses.replace(shard_request(request, shard), on_progress=on_progress)
        made = make_shard(pipeline, part, codes_only=folder.job.codes_only)
        folder.put(shard, made)
        summary.add(pictures=shard.count, codes=made.codes.size, seconds=made.seconds)
        on_shard(shard)
    return summary
