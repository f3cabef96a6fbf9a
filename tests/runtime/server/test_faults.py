"""Clients and places that misbehave: slow ones, a thousand at once, nonsense, a full disk, and a damaged bundle."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the extra `serve` isn't installed")

import uvicorn
from fastapi.testclient import TestClient

from tests.runtime.server.services import open_service
from trt_vqgan.cli import main
from trt_vqgan.runtime.images import encode_png
from trt_vqgan.runtime.server import connections
from trt_vqgan.runtime.server.app import create_app
from trt_vqgan.runtime.server.connections import PatientProtocol
from trt_vqgan.runtime.server.service import Service

CROWD = 1000
PICTURE = encode_png(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def service(demo_bundle: Path) -> Service:
    return open_service(demo_bundle, receive_s=0.3)


@contextlib.contextmanager
def listening(service: Service) -> Iterator[int]:
    """Serve on a free port, on a thread."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # so that a client that doesn't read is soon noticed
    config = uvicorn.Config(create_app(service), http=PatientProtocol, ws="none", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """Return what is still sent, until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def healthy(port: int) -> bool:
    with connected(port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return everything(connection).startswith(b"HTTP/1.1 200")


def test_slow_clients_are_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENT_S", 0.3)
    with listening(service) as port:
        silent, half, body = connected(port), connected(port), connected(port)
        half.sendall(HEAD[:30])
        body.sendall(HEAD % 1000 + b'{"class"')
        for connection in (silent, half):
            assert everything(connection) == b""
        answer = everything(body)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"body: had not come after 0.3 s" in answer
        after = connected(port)  # the clock starts again for a second request
        after.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert after.recv(65536).startswith(b"HTTP/1.1 200")
        after.sendall(b"GET /hea")
        assert b"200" not in everything(after)
        assert healthy(port)


def test_a_client_that_does_not_read_is_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)
    with listening(service) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        body = json.dumps({"class": 1, "n": 64, "stream": True, "preview_every": 1}).encode()
        connection.sendall(HEAD % len(body) + body)
        end = time.monotonic() + 30
        while not service.jobs:
            assert time.monotonic() < end
            time.sleep(0.01)
        while service.jobs:
            assert time.monotonic() < end, "its pictures are still made"
            time.sleep(0.05)
        assert healthy(port)
    assert service.counts().cancelled > 0


def test_a_thousand_connections(service: Service) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 500
    if limits[1] != resource.RLIM_INFINITY and limits[1] < wanted:
        pytest.skip(f"this process may open {limits[1]} files, wanted {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], wanted), limits[1]))
    body = b'{"class": 1, "format": "codes", "timeout": 0.2}'
    with listening(service) as port, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connected(port)) for _ in range(CROWD)]
        assert healthy(port)
        for connection in crowd:
            connection.sendall(HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % len(body) + body)
        answers = [everything(connection).split(b" ", 2)[1] for connection in crowd]
        assert set(answers) <= {b"200", b"429", b"504", b"408"}
        assert healthy(port)
    counts = service.counts()
    assert counts.accepted == counts.finished + counts.overdue + counts.cancelled
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_full_disk_is_no_reason_to_refuse_a_form(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    large = encode_png(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8))
    assert len(large) > 2 << 20
    with TestClient(create_app(open_service(demo_bundle))) as client:
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        answer = client.post("/v1/generate", files={"class": (None, "1"), "keep": (None, "top"), "init": large})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["encoder.onnx", "codebook.npy", "transformer.onnx.data"])
def test_a_flipped_byte_is_one_line(demo_bundle: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in demo_bundle.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == name:
            data[len(data) // 2] ^= 1
        (folder / path.name).write_bytes(data)
    result = CliRunner().invoke(main, ["serve", str(folder), "--port", "0"])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert name in result.output


# --- nonsense ---------------------------------------------------------------------------------------------------------

FIELDS = (
    "class", "depth", "segmentation", "image", "layout", "condition_codes", "shift_labels", "fit", "init", "mask",
    "keep",
    "paste", "resample", "size", "window_shift", "decode_tiles", "n", "seed", "first_picture", "temperature", "top_k",
    "top_p", "greedy", "guidance", "format", "stream", "preview_every", "unknown", "codes", "tiles",
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1x1", "top", "png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5).map(lambda fields: json.dumps(fields).encode()),
)


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """Return a form of random fields and files, some damaged pictures among them, and perhaps cut or overwritten."""
    parts = []
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        is_file = draw(st.booleans())
        if draw(st.booleans()):
            data = bytearray(PICTURE[: draw(st.integers(0, 400))])
            for place in draw(st.lists(st.integers(0, 100), max_size=3)):
                if place < len(data):
                    data[place] ^= draw(st.integers(1, 255))
        else:
            data = bytearray(draw(st.binary(max_size=40)))
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"' + ('; filename="f"' if is_file else "")
        parts.append(head.encode() + b"\r\n\r\n" + bytes(data) + b"\r\n")
    whole = b"".join(parts) + b"--b--\r\n"
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


class Direct:
    """Calls an application without a connection, which a hundred thousand requests would take long for."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._app = create_app(service)
        self._loop = asyncio.new_event_loop()

    def post(self, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        return self._loop.run_until_complete(self._post(path, kind, body))

    async def _post(self, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        headers = [(b"host", b"x"), (b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        scope = {
            "type": "http", "asgi": {"spec_version": "2.3", "version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("x", 80),
        }  # fmt: skip
        sent: list[Any] = []
        waits = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return waits.pop() if waits else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    def close(self) -> None:
        """End the service."""
        self._loop.close()
        self.service.close()


@pytest.fixture(scope="module")
def fuzzed(demo_bundle: Path) -> Iterator[Direct]:
    client = Direct(open_service(demo_bundle, max_pixels=128 * 128, max_pictures=2, deadline_s=0.002))
    yield client
    assert client.service.jobs == 0
    assert client.post("/v1/generate", "application/json", b'{"class": 1, "timeout": 60}')[0] == 200
    client.close()


def check_answer(client: Direct, path: str, kind: str, body: bytes) -> None:
    status, answer = client.post(path, kind, body)
    assert status in (200, 400, 413, 415, 504), (status, answer, body)
    if status != 200:
        message = json.loads(answer)["error"]["message"]
        assert message
        assert "\n" not in message


def fuzz(client: Direct, examples: int) -> None:
    few = settings(max_examples=examples // 2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    paths = st.sampled_from(["/v1/generate", "/v1/generate", "/v1/encode", "/v1/decode"])

    @few
    @given(path=paths, body=BODIES)
    def plain(path: str, body: bytes) -> None:
        check_answer(client, path, "application/json", body)

    @few
    @given(path=paths, body=forms())
    def form(path: str, body: bytes) -> None:
        check_answer(client, path, "multipart/form-data; boundary=b", body)

    plain()
    form()


def test_nonsense_is_answered_clearly(fuzzed: Direct) -> None:
    fuzz(fuzzed, 400)


@pytest.mark.slow
def test_much_nonsense_is_answered_clearly(fuzzed: Direct) -> None:
    fuzz(fuzzed, 100_000)


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"oh"), (400, b'{"error": {"message": ""}}'), (400, b'{"error": {"message": "a\\nb"}}')]
)
def test_an_answer_without_a_message_is_noticed(status: int, body: bytes) -> None:
    """A planted fault: a server that fails, and messages that are none."""

    class Failing:
        def post(self, *_: object) -> tuple[int, bytes]:
            return status, body

    with pytest.raises(AssertionError):
        check_answer(Failing(), "/v1/generate", "text/plain", b"")  # type: ignore[arg-type]
