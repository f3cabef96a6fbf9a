"""Jobs on a Ray cluster of this machine: workers and the driver are killed, and nothing is lost or made twice."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray isn't installed; `pip install '.[ray]'` installs it")

import trt_vqgan
from tests.runtime.jobs.small_jobs import all_codes, small_bundle, small_job
from trt_vqgan.cache_folder import CACHE_VARIABLE, cache_folder
from trt_vqgan.errors import JobError
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.jobs import ray_job
from trt_vqgan.runtime.jobs.bundle_copy import copied_bundle
from trt_vqgan.runtime.jobs.job_folder import JobFolder
from trt_vqgan.runtime.jobs.making import make_shard
from trt_vqgan.runtime.jobs.ray_cluster import Cluster, Crew, connected, crew_for
from trt_vqgan.runtime.jobs.ray_job import make_on_ray
from trt_vqgan.runtime.jobs.shards import Shard, shard_request
from trt_vqgan.runtime.jobs.summary import WorkerSummary

CREW = Crew(workers=2, threads=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connected("local") as opened:
        yield opened


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("class"))


class Watch:
    """Processes of the workers, and what happens when one is ready and when a shard is there."""

    def __init__(self) -> None:
        self.processes: dict[str, list[int]] = {}
        self.stopped: int | None = None
        self.shards: list[int] = []

    def stop_the_first(self, name: str, process: int) -> None:
        """Stop the first worker before it gets its shard, so that it surely has one when it is killed."""
        self.processes.setdefault(name, []).append(process)
        if self.stopped is None:
            self.stopped = process
            os.kill(process, signal.SIGSTOP)

    def kill_it_after_two(self, shard: Shard) -> None:
        self.shards.append(shard.index)
        if len(self.shards) == 2:
            assert self.stopped is not None
            os.kill(self.stopped, signal.SIGKILL)


def run(
    bundle: Path, folder: Path, cluster: Cluster, watch: Watch, *, kill: bool, shared: Path | None = None
) -> tuple[Any, list[WorkerSummary]]:
    with trt_vqgan.load(bundle) as pipeline:
        request, job = small_job(pipeline, n=24, shard_size=2)
    with JobFolder(folder, job) as opened:
        workers = make_on_ray(
            request, opened, bundle=shared or bundle, manifest=read_manifest(bundle), cluster=cluster, crew=CREW,
            on_ready=watch.stop_the_first,
            on_shard=watch.kill_it_after_two if kill else lambda shard: watch.shards.append(shard.index),
        )  # fmt: skip
    return job, workers


def one_machine(bundle: Path) -> np.ndarray:
    with trt_vqgan.load(bundle, threads=1) as pipeline:
        return pipeline.generate(n=24, seed=5).codes


def test_a_worker_is_killed_over_its_shard(cluster: Cluster, bundle: Path, tmp_path: Path) -> None:
    watch = Watch()
    job, workers = run(bundle, tmp_path, cluster, watch, kill=True)
    np.testing.assert_array_equal(all_codes(tmp_path, job), one_machine(bundle))
    assert sorted(watch.shards) == list(range(12))
    assert sorted(worker.deaths for worker in workers) == [0, 1]
    assert sum(worker.shards for worker in workers) == 12
    assert sum(worker.codes for worker in workers) == 24 * 64
    assert all(worker.codes_per_second > 0 for worker in workers if worker.shards)
    assert len(list(tmp_path.rglob("*.png"))) == 24


def test_a_worker_that_hangs_is_not_waited_for(cluster: Cluster, bundle: Path, tmp_path: Path) -> None:
    watch = Watch()
    job, workers = run(bundle, tmp_path, cluster, watch, kill=False)
    np.testing.assert_array_equal(all_codes(tmp_path, job), one_machine(bundle))
    assert sorted(worker.shards for worker in workers) == [0, 12]
    assert all(worker.deaths == 0 for worker in workers)


def test_the_driver_is_killed_and_started_again(cluster: Cluster, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "job"
    command = [sys.executable, "-m", "trt_vqgan", "generate", bundle, "-o", out, "-n", "200", "--seed", "5",
               "--shard-size", "1", "--workers", "2", "--threads", "1", "--json", "--ray"]  # fmt: skip
    driver = subprocess.Popen([*command, ray.get_runtime_context().gcs_address], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list((out / "shards").glob("0*.npz"))) < 3:  # in whatever order
            assert driver.poll() is None, "the driver ended before it could be killed"
            assert time.monotonic() < deadline, "three shards weren't made within a minute"
            time.sleep(0.002)
    finally:
        driver.kill()
        driver.wait()
    before = {path: path.stat().st_mtime_ns for path in (out / "shards").glob("0*.npz")}
    assert 3 <= len(before) < 200

    # and goes on where it was broken off, here on a cluster of its own
    done = subprocess.run([*command, "local"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["pictures"], report["shards"], report["shards_made"]) == (200, 200, 200 - len(before))
    assert [worker["name"] for worker in report["workers"]] == ["worker 1", "worker 2"]
    assert sum(worker["shards"] for worker in report["workers"]) == report["shards_made"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    with trt_vqgan.load(bundle) as pipeline:
        _, job = small_job(pipeline, n=200, shard_size=1)
        expected = pipeline.generate(n=200, seed=5, batch_size=50).codes
    np.testing.assert_array_equal(all_codes(out, job), expected)


def test_a_machine_without_the_bundle_is_sent_it(
    cluster: Cluster, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ray_job.share_bundle

    def elsewhere(path: Path, *arguments: Any) -> Any:
        return dataclasses.replace(real(path, *arguments), path=str(tmp_path / "nowhere"))

    monkeypatch.setattr(ray_job, "share_bundle", elsewhere)
    two_machines = dataclasses.replace(cluster, cpus=(1, 1))
    copy = cache_folder() / "bundles" / read_manifest(bundle).bundle_id
    shutil.rmtree(copy, ignore_errors=True)  # of an earlier run
    job, workers = run(bundle, tmp_path / "job", two_machines, Watch(), kill=False)
    assert (copy / "manifest.json").is_file()
    shutil.rmtree(copy)
    np.testing.assert_array_equal(all_codes(tmp_path / "job", job), one_machine(bundle))
    assert sum(worker.shards for worker in workers) == 12


def test_machines_that_compute_other_bits_take_no_part(cluster: Cluster, bundle: Path, tmp_path: Path) -> None:
    with trt_vqgan.load(bundle) as pipeline:
        request, job = small_job(pipeline)
    other = dataclasses.replace(job, probe="0" * 16)
    with (
        JobFolder(tmp_path, other) as folder,
        pytest.raises(JobError, match="no worker is left: .*computes other bits than the machine that began"),
    ):
        make_on_ray(
            request, folder, bundle=bundle, manifest=read_manifest(bundle), cluster=cluster, crew=CREW,
            on_shard=lambda shard: None,
        )  # fmt: skip


def test_a_copied_bundle(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    text = (bundle / "manifest.json").read_text()
    reads: list[str] = []

    def read(name: str) -> bytes:
        reads.append(name)
        return (bundle / name).read_bytes()

    folder = copied_bundle(text, read)
    with trt_vqgan.load(folder) as pipeline, trt_vqgan.load(bundle) as original:
        request, job = small_job(original)
        part = shard_request(request, job.shards[1])
        assert pipeline.bundle_id == original.bundle_id
        np.testing.assert_array_equal(
            make_shard(pipeline, part, codes_only=True).codes, make_shard(original, part, codes_only=True).codes
        )
    count = len(reads)
    assert copied_bundle(text, read) == folder
    assert len(reads) == count  # what is there isn't sent again
    next(folder.rglob("*.onnx")).unlink()
    assert copied_bundle(text, read) == folder
    assert len(reads) == 2 * count
    with pytest.raises(trt_vqgan.errors.BundleError, match="bytes, the manifest says"):
        next(folder.rglob("*.onnx")).unlink()
        copied_bundle(text, lambda name: b"other")


def test_crews() -> None:
    four = Cluster(cpus=(0, 16, 8, 16))
    assert crew_for(four, workers=None, threads=None) == Crew(workers=5, threads=8)
    assert crew_for(four, workers=3, threads=None) == Crew(workers=3, threads=8)
    assert crew_for(four, workers=2, threads=None) == Crew(workers=2, threads=16)
    assert crew_for(four, workers=None, threads=2) == Crew(workers=20, threads=2)
    with pytest.raises(JobError, match="room for 2 workers of 16 threads; found 3 wanted"):
        crew_for(four, workers=3, threads=16)
    with pytest.raises(JobError, match="room for 40 workers of 1 threads; found 41 wanted"):
        crew_for(four, workers=41, threads=None)
    with pytest.raises(JobError, match="no processors"):
        crew_for(Cluster(cpus=(0,)), workers=None, threads=None)
