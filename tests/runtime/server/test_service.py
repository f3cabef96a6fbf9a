"""A service's pictures are the pipeline's, in a crowd or outside it, and every request ends."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.server.services import Noted, open_service
from trt_vqgan.errors import (
    BundleError,
    Cancelled,
    ClosingError,
    ConditionError,
    DeadlineError,
    OverloadedError,
    ShapeError,
    TooLargeError,
)
from trt_vqgan.runtime.requests import GenerateArguments
from trt_vqgan.runtime.server.job import Job
from trt_vqgan.runtime.server.service import Service
from trt_vqgan.runtime.server.settings import ServerSettings


@pytest.fixture(scope="module")
def service(demo_bundle: Path) -> Iterator[Service]:
    made = open_service(demo_bundle, max_pictures=8, max_pixels=10 * 128 * 128, alone_limit=1)
    yield made
    made.close(drain=False)


def begin(service: Service, arguments: GenerateArguments, **options: Any) -> tuple[Noted, Job]:
    noted = Noted()
    return noted, service.submit(service.prepare(arguments), noted, **options)


def test_a_crowd_has_the_pictures_of_the_pipeline(service: Service) -> None:
    init = service.pipeline.generate(n=1, seed=9, class_id=2).images
    wanted: list[GenerateArguments] = [
        {"n": 2, "class_id": 1, "seed": 1},
        {"n": 1, "class_id": 3, "seed": 2, "greedy": True},
        {"n": 2, "class_id": 0, "seed": 3, "guidance": 2.0, "first_picture": 5},
        {"seed": 4, "class_id": 2, "init": init, "keep": np.arange(128)[:, None] * np.ones(128) < 64, "paste": True},
        {"seed": 5, "class_id": 1, "temperature": 1.3, "top_k": 50},
    ]
    noted = [begin(service, arguments, client=str(i % 2))[0] for i, arguments in enumerate(wanted)]
    for arguments, listener in zip(wanted, noted, strict=True):
        alone = service.pipeline.generate(**arguments)
        for i, made in enumerate(listener.pictures()):
            np.testing.assert_array_equal(made.codes, alone.codes[i])
            np.testing.assert_array_equal(made.image, alone.images[i])
    counts = service.counts()
    assert counts.rows > counts.steps, "nothing ran together"
    assert service.jobs == 0


def test_larger_pictures_run_alone(service: Service) -> None:
    arguments: GenerateArguments = {"n": 1, "class_id": 1, "size": (192, 128), "window_shift": 4}
    assert "larger than the training size" in service.why_alone(service.prepare(arguments))
    listener, _ = begin(service, arguments)
    np.testing.assert_array_equal(listener.pictures()[0].image, service.pipeline.generate(**arguments).images[0])


def test_codes_without_pictures(service: Service) -> None:
    listener, _ = begin(service, {"n": 2, "class_id": 1}, images=False)
    assert [made.image for made in listener.pictures()] == [None, None]


@pytest.mark.parametrize("size", [None, (160, 128)])
def test_previews_lead_to_the_picture(service: Service, size: tuple[int, int] | None) -> None:
    arguments: GenerateArguments = {"n": 2, "class_id": 1, "size": size, "window_shift": 4}
    request = dataclasses.replace(service.prepare(arguments), preview_every=40)
    listener = Noted()
    service.submit(request, listener, previews=True)
    listener.pictures()
    assert {shown.index for shown in listener.previews} == {0, 1}
    for index in (0, 1):
        done = [shown.done_codes for shown in listener.previews if shown.index == index]
        assert done == sorted(done)
    assert all(shown.image.shape == (*request.size, 3) for shown in listener.previews)


def test_previews_that_nobody_has_seen_are_replaced(service: Service) -> None:
    held = threading.Event()
    service._decoding.submit(held.wait)
    request = dataclasses.replace(service.prepare({"n": 1, "class_id": 1}), preview_every=1)
    listener = Noted()
    service.submit(request, listener, previews=True)
    done = service.counts().finished
    end = time.monotonic() + 20
    while service.counts().finished == done and time.monotonic() < end:
        time.sleep(0.005)
    held.set()
    listener.pictures()
    assert [shown.done_codes for shown in listener.previews] == [255]


@pytest.mark.parametrize("size", [None, (192, 128)])
def test_cancelling_stops_a_request(service: Service, size: tuple[int, int] | None) -> None:
    listener, job = begin(service, {"n": 4, "class_id": 1, "size": size})
    job.cancel()
    job.cancel()
    with pytest.raises(Cancelled):
        listener.pictures()
    after, _ = begin(service, {"n": 1, "class_id": 1})
    after.pictures()
    assert service.jobs == 0


@pytest.mark.parametrize("size", [None, (192, 128)])
def test_a_request_ends_at_its_deadline(service: Service, size: tuple[int, int] | None) -> None:
    listener, _ = begin(service, {"n": 4, "class_id": 1, "size": size}, seconds=0.02)
    with pytest.raises(DeadlineError):
        listener.pictures()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 9}, ShapeError, "n: found 9 pictures, at most 8"),
        ({"n": 8, "size": (256, 128)}, TooLargeError, "found 8 pictures of 32768 pixels, wanted at most 163840"),
        ({"class_id": [1] * 9}, ShapeError, "n: found 9 pictures"),
        ({"class_id": "ocean"}, ConditionError, "ocean"),
        ({"depth": np.zeros((4, 4))}, ConditionError, "takes no depth"),
    ],
)
def test_wrong_and_large_requests_are_refused(
    service: Service, arguments: GenerateArguments, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        service.prepare(arguments)


def test_no_more_wait_than_may(demo_bundle: Path) -> None:
    service = open_service(demo_bundle, queue_limit=4, rows=2, alone_limit=1, blocking_limit=1)
    held = threading.Event()
    service._decoding.submit(held.wait)
    listeners = [begin(service, {"n": 4, "class_id": 1})[0]]
    with pytest.raises(OverloadedError):
        for _ in range(3):
            listeners.append(begin(service, {"n": 4, "class_id": 1})[0])
    waiting = [service.blocking(held.wait) for _ in range(3)]
    with pytest.raises(OverloadedError, match="reading: 3 requests wait already"):
        service.blocking(held.wait)
    held.set()
    for listener in listeners:
        listener.pictures()
    assert all(future.result(10) for future in waiting)
    deadline = time.monotonic() + 10
    while service.jobs and time.monotonic() < deadline:  # a job goes once its last listener has been told
        time.sleep(0.01)
    assert service.jobs == 0
    assert service.close()


def test_closing_finishes_what_was_accepted(demo_bundle: Path) -> None:
    service = open_service(demo_bundle)
    listener, _ = begin(service, {"n": 3, "class_id": 1})
    alone, _ = begin(service, {"n": 1, "class_id": 1, "size": (136, 128)})
    assert service.close()
    assert len(listener.pictures()) == 3
    assert len(alone.pictures()) == 1
    with pytest.raises((ClosingError, BundleError)):
        begin(service, {"n": 1, "class_id": 1})


def test_closing_at_once_says_so(demo_bundle: Path) -> None:
    service = open_service(demo_bundle)
    listener, _ = begin(service, {"n": 8, "class_id": 1})
    assert not service.close(drain=False)
    with pytest.raises(ClosingError, match="before the pictures were finished"):
        listener.pictures()


def test_seconds_are_observed(demo_bundle: Path) -> None:
    service = open_service(demo_bundle)
    spent: dict[str, float] = {}
    service.on_seconds(lambda what, seconds: spent.setdefault(what, seconds))
    begin(service, {"n": 1, "class_id": 1})[0].pictures()
    assert set(spent) == {"wait", "draw", "decode"}
    assert all(seconds >= 0 for seconds in spent.values())
    service.close()


@pytest.mark.parametrize("setting", [{"rows": 1}, {"max_pixels": 0}, {"deadline_s": -1.0}, {"api_key": ""}])
def test_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=f"server setting {next(iter(setting))}"):
        ServerSettings(**setting)


def test_a_key_is_not_printed() -> None:
    assert "secret" not in repr(ServerSettings(api_key="secret"))
