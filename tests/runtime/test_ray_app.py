"""Two replicas of the server on a local Ray, under load while one is killed."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import io
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.serve", reason="Ray Serve isn't installed; `pip install '.[ray]'` installs it")

from ray import serve

import trt_vqgan
from tests.runtime.jobs.small_jobs import small_bundle
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime import ray_app
from trt_vqgan.runtime.jobs.ray_cluster import connected
from trt_vqgan.runtime.ray_app import ReplicaSettings, build
from trt_vqgan.runtime.server.settings import ServerSettings

NAME = f"test-{os.getpid()}"
PICTURES = 40


def processes(deployment: str) -> list[int]:
    """Return the processes of a deployment's replicas, as Ray titles them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if f"ServeReplica:{NAME}:{deployment}".encode() in title:
            found.append(int(entry.name))
    return found


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any, Any]:
    """Return status, headers and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json", "Authorization": "Bearer key"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read() or b"null")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("class"))


@pytest.fixture(scope="module")
def port(bundle: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    with connected("local"):
        serve.start(http_options={"host": "127.0.0.1", "port": free})
        application = build(
            bundle, threads=1, settings=ServerSettings(rows=2, api_key="key", drain_s=1),
            replicas=ReplicaSettings(min_replicas=2, max_replicas=2),
        )  # fmt: skip
        serve.run(application, name=NAME, route_prefix="/", logging_config={"log_level": "ERROR"})
        yield free
        serve.shutdown()


def test_the_interface_is_that_of_serve(port: int, bundle: Path) -> None:
    status, _, models = ask(port, "/v1/models")
    with trt_vqgan.load(bundle) as pipeline:
        assert (status, models["models"][0]["id"]) == (200, pipeline.bundle_id)
        expected = pipeline.generate(seed=3, class_id="sea", n=2)
    status, _, answer = ask(port, "/v1/generate", {"seed": 3, "class": "sea", "n": 2})
    assert status == 200, answer
    for i, picture in enumerate(answer["pictures"]):
        np.testing.assert_array_equal(picture["codes"], expected.codes[i])
        image = Image.open(io.BytesIO(base64.b64decode(picture["image"].partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(image), expected.images[i])
    status, _, answer = ask(port, "/v1/generate", {"class": "nothing"})
    assert (status, "'nothing'" in answer["error"]["message"]) == (400, True)
    assert ask(port, "/nowhere")[0] == 404
    no_key = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(no_key, timeout=60)
    assert error.value.code == 401


def test_a_replica_is_killed_under_load(port: int, bundle: Path) -> None:
    first, second = processes("Engine")
    os.kill(first, signal.SIGSTOP)  # so that it surely has requests under way when it dies
    answers: list[tuple[int, Any, Any]] = []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(ask, port, "/v1/generate", {"seed": seed, "class": 1, "format": "codes"})
            for seed in range(PICTURES)
        ]
        deadline = time.monotonic() + 60
        while sum(future.done() for future in futures) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(first, signal.SIGKILL)
        answers = [future.result(timeout=60) for future in futures]
    with trt_vqgan.load(bundle) as pipeline:
        for seed, (status, headers, answer) in enumerate(answers):
            if status == 200:
                expected = pipeline.generate(seed=seed, class_id=1).codes[0]
                np.testing.assert_array_equal(answer["pictures"][0]["codes"], expected)
            else:
                assert (status, headers["Retry-After"]) == (503, "2"), answer
    assert sum(status == 200 for status, _, _ in answers) > PICTURES // 2
    deadline = time.monotonic() + 120
    while len(processes("Engine")) < 2:  # and another takes its place
        assert time.monotonic() < deadline, "the replica that was killed was not replaced"
        time.sleep(0.1)
    assert second in processes("Engine")


def test_settings_as_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_app, "build", lambda **given: built.append(given))
    (tmp_path / "key").write_text("secret\n")
    words = {"bundle": "b", "threads": "4", "min_replicas": "2", "max_replicas": "8", "rows": "32", "drain_s": "1.5",
             "api_key_file": str(tmp_path / "key")}  # fmt: skip
    ray_app.app(words)
    assert built == [
        {
            "bundle": "b",
            "threads": 4,
            "settings": ServerSettings(rows=32, drain_s=1.5, api_key="secret"),
            "replicas": ReplicaSettings(min_replicas=2, max_replicas=8),
        }
    ]
    with pytest.raises(ShapeError, match="replica: no such setting; wanted some of bundle"):
        ray_app.app({"replica": "2"})
    with pytest.raises(ShapeError, match="rows: found 'many', wanted a number"):
        ray_app.app({"rows": "many"})
    with pytest.raises(ShapeError, match="found 3 to 2"):
        dataclasses.replace(ReplicaSettings(), min_replicas=3, max_replicas=2)


def test_autoscaling_is_what_was_asked_for(bundle: Path) -> None:
    application = build(
        bundle, settings=ServerSettings(rows=4), replicas=ReplicaSettings(min_replicas=2, max_replicas=5)
    )
    engine = application._bound_deployment.init_args[0]._bound_deployment
    scaling = engine._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 5, 4)
