"""A job's folder: whole shards only, and only of the job that began there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_vqgan
from tests.runtime.jobs.small_jobs import all_codes, small_bundle, small_job
from trt_vqgan.errors import JobError
from trt_vqgan.runtime.images import read_image
from trt_vqgan.runtime.jobs.job import JOB_NAME, read_job
from trt_vqgan.runtime.jobs.job_folder import JobFolder
from trt_vqgan.runtime.jobs.making import make_shard
from trt_vqgan.runtime.jobs.one_machine import make_here
from trt_vqgan.runtime.jobs.shards import shard_request
from trt_vqgan.runtime.pipeline import Pipeline
from trt_vqgan.runtime.png_metadata import read_generation_record


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with trt_vqgan.load(small_bundle(tmp_path_factory.mktemp("class"))) as opened:
        yield opened


def make(pipeline: Pipeline, folder: Path, **arguments: Any) -> Any:
    request, job = small_job(pipeline, **arguments)
    with JobFolder(folder, job) as opened:
        make_here(pipeline, request, opened, on_shard=lambda shard: None)
    return job


class Killed(Exception):
    pass


def test_pictures_and_codes_are_those_of_generate(pipeline: Pipeline, tmp_path: Path) -> None:
    job = make(pipeline, tmp_path / "job", first_picture=2)
    whole = pipeline.generate(n=10, seed=5, first_picture=2)
    np.testing.assert_array_equal(all_codes(tmp_path / "job", job), whole.codes)
    pictures = sorted((tmp_path / "job" / "pictures").rglob("*.png"))
    assert [str(path.relative_to(tmp_path / "job" / "pictures")) for path in pictures[2:5]] == [
        "00000/5-00004.png", "00001/5-00005.png", "00001/5-00006.png"
    ]  # fmt: skip
    for i, path in enumerate(pictures):
        np.testing.assert_array_equal(read_image(path), whole.images[i])
        record = read_generation_record(path)
        assert (record.picture, record.seed) == (i + 2, 5)
        np.testing.assert_array_equal(record.codes, whole.codes[i])
    with np.load(tmp_path / "job" / "shards" / "00001.npz") as arrays:
        assert {name: (arrays[name].dtype, arrays[name].shape) for name in arrays.files} == {
            "codes": (np.uint16, (3, 8, 8)), "pictures": (np.int64, (3,)), "class_ids": (np.int64, (3,))
        }  # fmt: skip
    assert read_job(tmp_path / "job") == job


def test_a_job_goes_on_where_it_was_broken_off(pipeline: Pipeline, tmp_path: Path) -> None:
    request, job = small_job(pipeline)
    done: list[int] = []

    def stop_after_two(shard: Any) -> None:
        done.append(shard.index)
        if len(done) == 2:
            raise Killed

    with pytest.raises(Killed), JobFolder(tmp_path / "job", job) as folder:
        make_here(pipeline, request, folder, on_shard=stop_after_two)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "job").rglob("*") if path.is_file()}
    # what a kill inside a shard leaves: pictures without codes, and half-written files
    broken = tmp_path / "job" / "pictures" / "00002"
    broken.mkdir()
    (broken / "5-00006.png").write_bytes(b"half")
    (tmp_path / "job" / "pictures" / ".00003.tmp").mkdir()
    (tmp_path / "job" / "shards" / ".trt-vqgan.1.2.tmp").write_bytes(b"half")

    with JobFolder(tmp_path / "job", job) as folder:
        assert [shard.index for shard in folder.missing()] == [2, 3]
        summary = make_here(pipeline, request, folder, on_shard=lambda shard: None)
    assert (summary.shards, summary.pictures, summary.codes) == (2, 4, 4 * 64)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name != ".lock")
    np.testing.assert_array_equal(all_codes(tmp_path / "job", job), pipeline.generate(n=10, seed=5).codes)
    names = sorted(path.name for path in (tmp_path / "job").rglob("*.png"))
    assert names == [f"5-{i:05d}.png" for i in range(10)]
    assert not list((tmp_path / "job").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 6}, "seed"),
        ({"n": 11}, "count"),
        ({"shard_size": 4}, "shard_size"),
        ({"codes_only": True}, "codes_only"),
        ({"temperature": 0.5}, "temperature"),
        ({"top_k": 3}, "top_k"),
        ({"top_p": 0.5}, "top_p"),
        ({"greedy": True}, "greedy"),
        ({"guidance": 2.0}, "guidance"),
        ({"first_picture": 3}, "first_picture"),
        ({"class_id": [1]}, "inputs"),
        ({"kept_codes": np.full((8, 8), 3)}, "inputs"),
        ({"size": (40, 32)}, "width"),
    ],
)
def test_other_settings_are_refused(pipeline: Pipeline, tmp_path: Path, change: dict[str, Any], field: str) -> None:
    _, job = small_job(pipeline)
    with JobFolder(tmp_path, job):
        pass
    _, other = small_job(pipeline, **change)
    with (
        pytest.raises(JobError, match=f"holds a job with {field} .*give the same settings"),
        JobFolder(tmp_path, other),
    ):
        pass


def test_another_bundle_or_machine_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    _, job = small_job(pipeline)
    with JobFolder(tmp_path, job):
        pass
    with JobFolder(tmp_path, dataclasses.replace(job, version="9")):
        pass  # a version alone changes nothing
    with (
        pytest.raises(JobError, match="with bundle_id"),
        JobFolder(tmp_path, dataclasses.replace(job, bundle_id="0" * 16)),
    ):
        pass
    with (
        pytest.raises(JobError, match="begun where the bundle computes other bits"),
        JobFolder(tmp_path, dataclasses.replace(job, probe="0" * 16)),
    ):
        pass


def test_folders_that_hold_something_else(pipeline: Pipeline, tmp_path: Path) -> None:
    _, job = small_job(pipeline)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(JobError, match="has files but no job.json"), JobFolder(tmp_path / "full", job):
        pass
    with pytest.raises(JobError, match="is a file"), JobFolder(tmp_path / "full" / "thesis.txt", job):
        pass
    (tmp_path / "broken").mkdir()
    for text, said in (
        ("{", "can't be read as a job"),
        ('{"schema": 9}', "schema 9"),
        ('{"schema": 1}', "missing key"),
    ):
        (tmp_path / "broken" / JOB_NAME).write_text(text)
        with pytest.raises(JobError, match=said), JobFolder(tmp_path / "broken", job):
            pass
    with pytest.raises(JobError, match=r"has no job\.json"):
        read_job(tmp_path / "full")


def test_two_processes_at_one_job(pipeline: Pipeline, tmp_path: Path) -> None:
    _, job = small_job(pipeline)
    refused = pytest.raises(JobError, match="another process works on this job")
    with JobFolder(tmp_path, job), refused, JobFolder(tmp_path, job):
        pass
    with JobFolder(tmp_path, job):
        pass


def test_pictures_of_another_shard_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    request, job = small_job(pipeline)
    first, second = job.shards[:2]
    made = make_shard(pipeline, shard_request(request, first), codes_only=False)
    with JobFolder(tmp_path, job) as folder:
        with pytest.raises(JobError, match=r"shard 1 came with pictures \[0, 1, 2\]"):
            folder.put(second, made)
        folder.put(first, made)
        assert [shard.index for shard in folder.missing()] == [1, 2, 3]
        (tmp_path / "shards" / "00000.npz").write_bytes(b"PK")
        with pytest.raises(JobError, match="remove it, and the job makes the shard again"):
            folder.codes(first)


def test_a_job_tells_what_it_is(pipeline: Pipeline, tmp_path: Path) -> None:
    job = make(pipeline, tmp_path, codes_only=True)
    told = json.loads((tmp_path / JOB_NAME).read_text())
    assert told["bundle_id"] == pipeline.bundle_id
    assert told["backend"] == pipeline.backend
    assert (told["seed"], told["count"], told["shard_size"]) == (5, 10, 3)
    assert not (tmp_path / "pictures").exists()
    np.testing.assert_array_equal(all_codes(tmp_path, job), pipeline.generate(n=10, seed=5).codes)
