"""``trt-vqgan generate --ray`` and ``--shard-size``: big jobs in shards, which a kill doesn't lose."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import Interrupted
from trt_vqgan.cli.progress import ShardsProgress

if TYPE_CHECKING:
    from trt_vqgan.runtime.jobs.job_folder import JobFolder
    from trt_vqgan.runtime.jobs.summary import WorkerSummary
    from trt_vqgan.runtime.pipeline import Pipeline, Progress
    from trt_vqgan.runtime.requests import Request

DEFAULT_SHARD_SIZE = 64
RAY_BACKENDS = ("auto", "native", "onnxruntime")

_OF_ONE_RUN = ("grid", "npz", "animate", "preview", "source")
"""Settings of `generate` that are about pictures which one process has in hand."""


def job_options(function: Any) -> Any:
    """Add the options of big jobs."""
    for option in (
        click.option("--codes-only", is_flag=True, help="Leave the pictures of shards out; `decode` makes them later."),
        click.option("--workers", type=click.IntRange(min=1), help="Workers on Ray.  [default: one a machine]"),
        click.option(
            "--shard-size",
            type=click.IntRange(min=1),
            metavar="N",
            help="Write shards of N pictures into OUT: a job that is broken off goes on when the same command is given "
            f"again.  [default with --ray: {DEFAULT_SHARD_SIZE}]",
        ),
        click.option(
            "--ray",
            metavar="ADDRESS|local",
            help="Make the shards by the workers of a Ray cluster, HOST:6379 or `auto`, or of one started here.",
        ),
    ):
        function = option(function)
    return function


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What the options of big jobs say.

    Attributes
    ----------
    ray : address of a cluster; None for this process.
    """

    ray: str | None
    workers: int | None
    shard_size: int
    codes_only: bool


def chosen_job(
    *,
    ray: str | None,
    workers: int | None,
    shard_size: int | None,
    codes_only: bool,
    backend: str,
    device: str | None,
    settings: Mapping[str, Any],
) -> JobOptions | None:
    """Return the job that the options ask for; None for pictures without shards.

    Raises
    ------
    click.UsageError : options that don't go together.
    """
    if ray is None and workers is not None:
        raise click.UsageError("--workers is about a Ray cluster, give --ray ADDRESS or --ray local")
    if ray is None and shard_size is None:
        if codes_only:
            raise click.UsageError("--codes-only is about shards, give --shard-size N")
        return None
    for name in _OF_ONE_RUN:
        if settings[name]:
            option = "from" if name == "source" else name
            raise click.UsageError(f"--{option} doesn't go with shards, leave it or --ray and --shard-size out")
    if ray is not None and (backend not in RAY_BACKENDS or (device or "cpu") != "cpu"):
        raise click.UsageError("--ray works on processors so far: --backend auto, native or onnxruntime, no --device")
    return JobOptions(ray=ray, workers=workers, shard_size=shard_size or DEFAULT_SHARD_SIZE, codes_only=codes_only)


def check_ray(job: JobOptions | None) -> None:
    """Raise MissingDependencyError where a job needs Ray and it isn't installed: before anything is opened."""
    if job is not None and job.ray is not None:
        from trt_vqgan.extras import import_module

        import_module("trt_vqgan.runtime.jobs.ray_job")


def run_job(
    chosen: JobOptions, pipeline: Pipeline, request: Request, out: Path, *,
    bundle: Path, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Make the job's missing shards in ``out``, and print what was done.

    Parameters
    ----------
    threads : of each worker on Ray; None for what suits.

    Raises
    ------
    JobError : another job's folder, or no workers.
    Interrupted : Ctrl-C came.
    """
    from trt_vqgan.runtime.jobs.job import job_of
    from trt_vqgan.runtime.jobs.job_folder import JobFolder

    job = job_of(pipeline, request, shard_size=chosen.shard_size, codes_only=chosen.codes_only)
    about = {"bundle_id": pipeline.bundle_id, "backend": pipeline.backend, "precision": pipeline.precision}
    said = options.say_backend(pipeline)
    codes_a_picture = request.size[0] * request.size[1] // pipeline.spec.autoencoder.factor**2
    total = len(job.shards)
    with JobFolder(out, job) as folder:
        missing = folder.missing()
        pictures = sum(shard.count for shard in missing)
        start = time.perf_counter()
        try:
            with ShardsProgress(
                total, done_shards=total - len(missing), total_codes=job.count * codes_a_picture,
                done_codes=(job.count - pictures) * codes_a_picture, quiet=as_json,
            ) as progress:  # fmt: skip
                if chosen.ray is None:
                    workers = [_here(pipeline, request, folder, progress, codes_a_picture)]
                else:
                    workers = _on_ray(
                        chosen, pipeline, request, folder, progress, codes_a_picture, bundle=bundle, threads=threads
                    )
        except KeyboardInterrupt:
            finished = total - len(folder.missing())
            raise Interrupted(f"{finished} of {total} shards are in {out}; the same command goes on") from None
        seconds = time.perf_counter() - start
    rate = pictures * codes_a_picture / max(seconds, 1e-9)
    if as_json:
        report = {
            "job": str(out),
            "pictures": job.count,
            "shards": total,
            "shards_made": len(missing),
            "codes_per_second": rate if missing else None,
            "workers": [_worker_report(worker) for worker in workers],
        }
        click.echo(json.dumps(about | report))
        return
    for worker in workers:
        click.echo(_worker_line(worker))
    made = "all of them were there" if not missing else f"{len(missing)} of them made now, {rate:.0f} codes/s"
    click.echo(f"{job.count} pictures in {total} shard{'s' * (total != 1)} in {out} ({said}; {made})")


def _here(
    pipeline: Pipeline, request: Request, folder: JobFolder, progress: ShardsProgress, codes_a_picture: int
) -> WorkerSummary:
    from trt_vqgan.runtime.jobs.one_machine import make_here

    def within(done: Progress) -> bool:
        progress.within_shard(done.done_codes)
        return True

    return make_here(
        pipeline, request, folder, on_progress=within,
        on_shard=lambda shard: progress.finished(shard.count * codes_a_picture),
    )  # fmt: skip


def _on_ray(
    chosen: JobOptions, pipeline: Pipeline, request: Request, folder: JobFolder, progress: ShardsProgress,
    codes_a_picture: int, *, bundle: Path, threads: int | None,
) -> list[WorkerSummary]:  # fmt: skip
    from trt_vqgan.runtime.jobs.ray_cluster import connected, crew_for
    from trt_vqgan.runtime.jobs.ray_job import make_on_ray

    assert chosen.ray is not None
    if not folder.missing():
        return []
    manifest = pipeline.manifest
    pipeline.close()  # the workers of this machine need the memory
    with connected(chosen.ray) as cluster:
        return make_on_ray(
            request, folder, bundle=bundle, manifest=manifest, cluster=cluster,
            crew=crew_for(cluster, workers=chosen.workers, threads=threads),
            on_shard=lambda shard: progress.finished(shard.count * codes_a_picture),
        )  # fmt: skip


def _worker_report(worker: WorkerSummary) -> dict[str, Any]:
    return dataclasses.asdict(worker) | {"codes_per_second": worker.codes_per_second}


def _worker_line(worker: WorkerSummary) -> str:
    place = f" ({worker.place})" if worker.place else ""
    if worker.refused is not None:
        return f"{worker.name}{place}: took no part: {worker.refused}"
    deaths = f", started again {worker.deaths} times" if worker.deaths else ""
    return (
        f"{worker.name}{place}: {worker.shards} shards, {worker.pictures} pictures, "
        f"{worker.codes_per_second:.0f} codes/s{deaths}"
    )
