"""What decides the pictures of a job, kept beside them: a job that goes on must be the same job."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

import trt_vqgan
from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.errors import JobError, SpecError
from trt_vqgan.runtime.jobs.probe import probe
from trt_vqgan.runtime.jobs.shards import Shard, shards_of
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.requests import Request
from trt_vqgan.spec import from_dict

JOB_NAME = "job.json"
SCHEMA_VERSION = 1

_TOLD_ONLY = ("version",)
"""Fields that decide no picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides what a job's shards hold.

    Attributes
    ----------
    version : of this package, when the job began; may change.
    bundle_id, backend : what draws the codes.
    probe : what that computes here, bit by bit, as `probe.probe` tells it.
    seed, first_picture, count : the pictures.
    shard_size : pictures in a shard; fewer in the last.
    width, height : of a picture, pixels.
    codes_only : whether pictures are left out.
    temperature, top_k, top_p, greedy, guidance : how codes are drawn.
    window_shift, decode_tiles : of pictures larger than the training size.
    inputs : hash of conditions, kept codes, pictures to paste from, and layouts.
    """

    version: str
    bundle_id: str
    backend: str
    probe: str
    seed: int
    first_picture: int
    count: int
    shard_size: int
    width: int
    height: int
    codes_only: bool
    temperature: float
    top_k: int | None
    top_p: float
    greedy: bool
    guidance: float | None
    window_shift: int
    decode_tiles: bool
    inputs: str
    schema: int = SCHEMA_VERSION

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order."""
        return shards_of(self.count, shard_size=self.shard_size)


def job_of(pipeline: Pipeline, request: Request, *, shard_size: int, codes_only: bool) -> Job:
    """Return the job that makes the pictures of a request."""
    shards_of(request.count, shard_size=shard_size)
    return Job(
        version=trt_vqgan.__version__,
        bundle_id=pipeline.bundle_id,
        backend=pipeline.backend,
        probe=probe(pipeline),
        seed=request.seed,
        first_picture=request.first_picture,
        count=request.count,
        shard_size=shard_size,
        width=request.size[1],
        height=request.size[0],
        codes_only=codes_only,
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        greedy=request.sampling.greedy,
        guidance=None if request.guidance is None else request.guidance.scale,
        window_shift=1 if request.windows is None else request.windows.shift,
        decode_tiles=request.decode_tiles,
        inputs=_hash_inputs(request),
    )


def begin(folder: Path, job: Job) -> None:
    """Write the job's file into ``folder``, or check that the one there is of the same job.

    Raises
    ------
    JobError : the folder holds another job, other files, or a job's file that can't be read.
    """
    path = folder / JOB_NAME
    if path.exists():
        _check_same(path, read_job(folder), job)
        return
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise JobError(f"{folder}: has files but no {JOB_NAME}, so it is no job; wanted a new or empty folder")
    write_bytes(path, (json.dumps(dataclasses.asdict(job), indent=1) + "\n").encode())


def read_job(folder: Path) -> Job:
    """Return the job whose file lies in ``folder``.

    Raises
    ------
    JobError : no such file, or one that this version can't read.
    """
    path = folder / JOB_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema") != SCHEMA_VERSION:
            raise JobError(f"{path}: has schema {data.get('schema')!r}, this version reads {SCHEMA_VERSION}")
        job: Job = from_dict(Job, data, "job")
    except FileNotFoundError:
        raise JobError(f"{folder}: has no {JOB_NAME}, wanted the folder of a job") from None
    except (SpecError, OSError, ValueError, RecursionError) as error:
        raise JobError(f"{path}: can't be read as a job ({error}); choose another folder") from None
    return job


def _check_same(path: Path, found: Job, wanted: Job) -> None:
    for field in dataclasses.fields(Job):
        was, is_now = getattr(found, field.name), getattr(wanted, field.name)
        if field.name in _TOLD_ONLY or was == is_now:
            continue
        if field.name == "probe":
            raise JobError(
                f"{path}: the job was begun where the bundle computes other bits (another processor, or release of "
                "ONNX Runtime), so its codes could differ; go on where it was begun, or begin in another folder"
            )
        raise JobError(
            f"{path}: holds a job with {field.name} {was!r}, this one has {is_now!r}; give the same settings to go on, "
            "or another folder"
        )


def _hash_inputs(request: Request) -> str:
    digest = hashlib.sha256()
    for array in (request.conditions, request.kept, request.originals):
        digest.update(b"none" if array is None else repr((array.dtype.str, array.shape)).encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    if request.windows is not None:
        digest.update(repr(request.windows.layouts).encode())
    return digest.hexdigest()
