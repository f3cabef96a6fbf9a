"""A job's shards make the pictures of the whole, and the queue loses none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.runtime.jobs.small_jobs import small_bundle
from trt_vqgan.errors import JobError, ShapeError
from trt_vqgan.runtime.jobs.making import make_shard
from trt_vqgan.runtime.jobs.shard_queue import MAX_LOSSES, ShardQueue
from trt_vqgan.runtime.jobs.shards import shard_request, shards_of
from trt_vqgan.runtime.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with trt_vqgan.load(small_bundle(tmp_path_factory.mktemp("class"))) as opened:
        yield opened


@given(count=st.integers(1, 200), size=st.integers(1, 70))
def test_shards_cover_every_picture_once(count: int, size: int) -> None:
    shards = shards_of(count, shard_size=size)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [i for shard in shards for i in range(shard.start, shard.stop)] == list(range(count))
    assert all(shard.count == size for shard in shards[:-1])


def test_a_shard_of_nothing() -> None:
    with pytest.raises(ShapeError, match="shard_size: found 0"):
        shards_of(3, shard_size=0)


def test_shards_make_the_whole(pipeline: Pipeline) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    arguments = {"init": picture, "resample": 0.5, "paste": True, "guidance": 2.0, "first_picture": 4, "seed": 9}
    request = pipeline.request(n=7, **arguments)
    whole = list(pipeline.run(request))
    parts = [
        item for shard in shards_of(7, shard_size=3) for item in pipeline.run(shard_request(request, shard))
    ]  # fmt: skip
    assert [item[0] for item in parts] == [item[0] for item in whole] == list(range(4, 11))
    for part, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(part[1], other[1])
        np.testing.assert_array_equal(part[2], other[2])


def test_layouts_of_large_scenes_go_on_in_turn(tmp_path: Path) -> None:
    run = make_checkpoint(tmp_path / "run", kind="boxes", training_state=False)
    trt_vqgan.export_checkpoint(run, tmp_path / "bundle", class_names=["cat", "dog"])
    layouts = [
        {"boxes": [{"class": name, "box": [0.1 * i, 0.2, 0.4, 0.5]}]} for i, name in enumerate(["dog", "cat", "dog"])
    ]
    with trt_vqgan.load(tmp_path / "bundle") as scenes:
        request = scenes.request(n=4, layout=layouts, size=(40, 32))
        whole = np.stack([codes for _, codes in scenes.draw(request)])
        shards = shards_of(4, shard_size=2)
        parts = np.stack([codes for shard in shards for _, codes in scenes.draw(shard_request(request, shard))])
    np.testing.assert_array_equal(parts, whole)
    assert len({codes.tobytes() for codes in whole}) == 4


def test_codes_are_drawn_without_pictures(pipeline: Pipeline) -> None:
    request = pipeline.request(n=3, seed=2)
    with_pictures = make_shard(pipeline, request, codes_only=False)
    without = make_shard(pipeline, request, codes_only=True)
    np.testing.assert_array_equal(with_pictures.codes, without.codes)
    assert [name for name, _ in with_pictures.pngs] == ["2-00000.png", "2-00001.png", "2-00002.png"]
    assert without.pngs == ()
    assert without.class_ids is not None
    np.testing.assert_array_equal(without.class_ids, request.conditions[:, 0])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), count=st.integers(1, 8), crew=st.integers(1, 4))
def test_no_shard_is_lost_or_counted_twice(data: st.DataObject, count: int, crew: int) -> None:
    """Workers take, finish and die in any order; every shard is finished exactly once."""
    queue = ShardQueue(shards_of(count, shard_size=1))
    holds: dict[str, object] = {f"worker {i}": None for i in range(crew)}
    deaths = dict.fromkeys(range(count), 0)
    finished: list[int] = []
    while not queue.is_done:
        for worker, shard in holds.items():
            if shard is None:
                holds[worker] = queue.take(worker)
        busy = [worker for worker, shard in holds.items() if shard is not None]
        assert busy, "every worker is idle, and shards are missing"
        worker = data.draw(st.sampled_from(busy))
        shard = holds[worker]
        holds[worker] = None
        if deaths[shard.index] + 1 < MAX_LOSSES and data.draw(st.booleans()):
            deaths[shard.index] += 1
            queue.lost(shard, worker)
        elif queue.finished(shard):
            finished.append(shard.index)
    assert sorted(finished) == list(range(count))


def test_a_slow_worker_is_not_waited_for() -> None:
    first, second = shards_of(2, shard_size=1)
    queue = ShardQueue([first, second])
    assert queue.take("slow") == first
    assert queue.take("fast") == second
    assert queue.finished(second)
    assert queue.take("fast") == first
    assert queue.take("third") is None  # two at most make the same
    assert queue.finished(first)
    assert not queue.finished(first)
    assert queue.is_done


def test_a_shard_that_kills_its_workers() -> None:
    (shard,) = shards_of(4, shard_size=4)
    queue = ShardQueue([shard])
    for _ in range(MAX_LOSSES - 1):
        assert queue.take("worker") == shard
        queue.lost(shard, "worker")
    queue.take("worker")
    with pytest.raises(JobError, match=r"shard 0 \(pictures 0 to 3 of the job\).*lack memory"):
        queue.lost(shard, "worker")
