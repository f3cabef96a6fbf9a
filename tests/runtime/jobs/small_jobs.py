"""A small class model, and jobs of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.runtime.jobs.job import Job, job_of
from trt_vqgan.runtime.jobs.job_folder import JobFolder
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import Request

NAMES = ["lake", "sea", "wood", "hill", "sky"]


def small_bundle(folder: Path) -> Path:
    """Return the path of a bundle with 8 x 8 codes, and five classes of which the last stands for none."""
    run = make_checkpoint(folder / "run", kind="class", training_state=False)
    trt_vqgan.export_checkpoint(run, folder / "bundle", class_names=NAMES, null_class=4)
    return folder / "bundle"


def small_job(
    pipeline: Pipeline, *, n: int = 10, shard_size: int = 3, codes_only: bool = False, **arguments: object
) -> tuple[Request, Job]:
    request = pipeline.request(n=n, **({"seed": 5} | arguments))  # type: ignore[typeddict-item]
    return request, job_of(pipeline, request, shard_size=shard_size, codes_only=codes_only)


def all_codes(folder: Path, job: Job) -> np.ndarray:
    """Return the codes of every shard, (count, h, w), after checking the pictures' numbers."""
    with JobFolder(folder, job) as opened:
        parts = [opened.codes(shard) for shard in job.shards]
    numbers = np.concatenate([part["pictures"] for part in parts])
    np.testing.assert_array_equal(numbers, job.first_picture + np.arange(job.count))
    return np.concatenate([part["codes"] for part in parts])
