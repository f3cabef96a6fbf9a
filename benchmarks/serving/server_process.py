"""A server in a process of its own, and clients that keep their connection."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from trt_vqgan.errors import BundleError

END_S = 90.0


class ServerProcess:
    """``trt-vqgan serve`` on a free port, ended with the ``with`` block.

    Parameters
    ----------
    bundle : what is served; None for the demo.
    options : of the command.
    """

    def __init__(self, bundle: Path | None, *options: str) -> None:
        command = [sys.executable, "-m", "trt_vqgan", "serve", "--port", "0", *options]
        self._process = subprocess.Popen(
            [*command, *([] if bundle is None else [str(bundle)])], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().strip()
        match = re.search(r"on http://127\.0\.0\.1:(\d+)$", self.said)
        if match is None:
            self._process.kill()
            raise BundleError(f"server: did not start, and said {self.said!r}")
        self.port = int(match[1])

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> int:
        """Tell the server to end, and return its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return self._process.returncode

    def resident_bytes(self) -> int:
        """Return the memory that the process holds; 0 where the system doesn't say."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Return the files and connections that the process holds open; 0 where the system doesn't say."""
        try:
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return 0

    def metrics(self, client: Client | None = None) -> dict[str, float]:
        """Return the server's measurements by name and labels."""
        answer = (client or Client(self.port)).get("/metrics")
        lines = (line for line in answer.body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered, and in how many seconds."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


class Client:
    """A client with one connection. For one thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=END_S)

    def get(self, path: str) -> Answer:
        """Return the answer to a GET."""
        return self._ask("GET", path, b"", {})

    def post(self, path: str, body: object, *, accept: str = "application/json") -> Answer:
        """Return the answer to a POST of JSON, or of bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", path, data, {"Content-Type": "application/json", "Accept": accept})

    def abandon(self, path: str, body: object, *, after_s: float) -> None:
        """Send a POST, read a little of its answer, and go away."""
        data = json.dumps(body).encode()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        time.sleep(after_s)
        self._connection.close()

    def _ask(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> Answer:
        start = time.perf_counter()
        self._connection.request(method, path, data, headers)
        response = self._connection.getresponse()
        body = response.read()
        return Answer(status=response.status, body=body, seconds=time.perf_counter() - start)
