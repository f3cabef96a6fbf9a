"""``trt-vqgan serve`` as a process: says where it listens, drains when told to end, and in one line what is wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason="the extra `serve` isn't installed")

from trt_vqgan.cli import main


class Server:
    """A server process on a free port."""

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "trt_vqgan", "serve", str(bundle), "--port", "0", "--backend", "onnxruntime"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert "on http://127.0.0.1:" in self.said, self.process.stderr and self.process.stderr.read()
        self.url = self.said.rpartition(" on ")[2].strip()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, body: object, **headers: str) -> tuple[int, bytes]:
        """Return status and body of a request for pictures."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + "/v1/generate", data, {"Content-Type": "application/json"} | headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def metric(self, name: str) -> float:
        """Return a number of /metrics."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a number of /metrics is reached."""
        end = time.monotonic() + 30
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} never was {value}"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Return status and output of a server that was told to end."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[Server]:
    made = Server(demo_bundle)
    yield made
    if made.process.poll() is None:
        made.end()


def test_a_client_that_goes_away_cancels_its_pictures(server: Server) -> None:
    cancelled = server.metric('trt_vqgan_pictures_total{outcome="cancelled"}')
    for stream in (False, True):
        body = json.dumps({"class": 1, "n": 64, "format": "codes", "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = (
                "POST /v1/generate HTTP/1.1",
                "Host: x",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
            )
            connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
            server.wait_for("trt_vqgan_requests_under_way", 1)
        server.wait_for("trt_vqgan_requests_under_way", 0)
    server.wait_for("trt_vqgan_running_pictures", 0)
    assert server.metric('trt_vqgan_pictures_total{outcome="cancelled"}') > cancelled
    assert server.post({"class": 1})[0] == 200


def test_it_finishes_what_it_has_when_it_is_told_to_end(demo_bundle: Path) -> None:
    server = Server(demo_bundle)
    found: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: found.append(server.post({"class": 1, "n": 8})))
    asking.start()
    server.wait_for("trt_vqgan_requests_under_way", 1)
    status, out, err = server.end()
    asking.join()
    assert (status, out, err) == (0, "ended: 8 of 8 pictures finished\n", "")
    assert found[0][0] == 200
    assert len(json.loads(found[0][1])["pictures"]) == 8


def test_it_does_not_wait_for_ever(demo_bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("open sesame\n")
    server = Server(demo_bundle, "--drain", "1", "--api-key-file", str(key))
    assert server.post({"class": 1})[0] == 401
    asking = threading.Thread(
        target=lambda: server.post({"class": 1, "size": [2048, 2048]}, Authorization="Bearer open sesame"), daemon=True
    )
    asking.start()
    time.sleep(1)
    start = time.monotonic()
    status, _, _ = server.end(signal.SIGINT)
    assert status == 0
    assert time.monotonic() - start < 30


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert result.exit_code in (1, 2)
    assert result.output.count("\n") == 1, result.output
    return result.output


def test_one_line_of_what_is_wrong(
    demo_bundle: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"127.0.0.1:{server.port}: Address already in use" in run(demo_bundle, "--port", server.port)
    assert "no such file" in run(tmp_path / "none", "--port", 0) or "none" in run(tmp_path / "none", "--port", 0)
    assert "can't be read" in run(demo_bundle, "--port", 0, "--api-key-file", tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    assert "is empty, wanted a key" in run(demo_bundle, "--port", 0, "--api-key-file", tmp_path / "empty")
    for name in [name for name in sys.modules if name.startswith(("fastapi", "trt_vqgan.runtime.server"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delattr("trt_vqgan.runtime.server", raising=False)
    assert "pip install 'trt-vqgan[serve]'" in run(demo_bundle, "--port", 0)
