"""``python -m trt_vqgan.benchmarks.serving.soak``: a server under mixed load for a while, and what it lost.

Clients ask for codes, pictures, streams, completions, encodings and decodings; abandon requests, send nonsense, and
give deadlines that can't be met. At the end every request that was accepted must have been answered, and the memory
and open files of the server must be what they were once it was warm.
"""

from __future__ import annotations

import argparse
import base64
import collections
import dataclasses
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.serving.server_process import Client, ServerProcess
from trt_vqgan.errors import TrtVqganError
from trt_vqgan.runtime.images import encode_png

SAMPLE_S = 0.5
WARM_SHARE, WARM_S = 0.3, 6.0
"""Share of the time after which the server's memory is what it should stay, and the least seconds: on a busy machine
the first request of each kind takes a while."""

ALLOWED_GROWTH_BYTES = 48 << 20
SETTLE_S = 20.0
"""Seconds in which what abandoned requests held must be free again."""

MOMENTS = 20
SIZE = 128


@dataclasses.dataclass
class Tally:
    """What happened: answers by kind of request and status, and the first few that were wrong."""

    answers: collections.Counter[tuple[str, int]] = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    abandoned: int = 0

    def note(self, kind: str, status: int, wanted: Sequence[int], said: bytes) -> None:
        """Count an answer, whose status must be one of those ``wanted``."""
        self.answers[kind, status] += 1
        if status not in wanted and len(self.wrong) < 5:
            self.wrong.append(f"{kind}: answered {status} {said[:200]!r}, wanted {list(wanted)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soaked:
    """What a soak found.

    Attributes
    ----------
    answers : requests that were answered, by kind and status.
    abandoned : requests whose client went away.
    problems : what was wrong; empty for a server that lasts.
    warm_bytes, end_bytes, most_bytes : the server's memory once warm (its largest), at the end, and at most.
    memory_mb : the server's memory at twenty moments.
    """

    seconds: float
    answers: dict[str, int]
    abandoned: int
    problems: list[str]
    warm_bytes: int
    end_bytes: int
    most_bytes: int
    memory_mb: list[int]


class _Mixed:
    """One client's requests, chosen by chance."""

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self._port, self._tally = port, tally
        self._random = random.Random(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        self._picture = base64.b64encode(encode_png(pixels)).decode()
        self._client = Client(port)
        self._kinds = {
            self._codes: 8, self._pictures: 6, self._stream: 3, self._completion: 2, self._larger: 0.3, self._encode: 2,
            self._decode: 2, self._abandon: 3, self._nonsense: 4, self._too_late: 1, self._look: 1,
        }  # fmt: skip

    def step(self) -> None:
        """Send one request."""
        kind = self._random.choices(list(self._kinds), list(self._kinds.values()))[0]
        kind()

    def _body(self, **more: object) -> dict[str, object]:
        return {"class": self._random.randrange(5), "seed": self._random.randrange(1 << 40), **more}

    def _post(self, kind: str, path: str, body: object, wanted: Sequence[int] = (200, 429)) -> bytes:
        answer = self._client.post(path, body)
        self._tally.note(kind, answer.status, wanted, answer.body)
        return answer.body if answer.status == 200 else b""

    def _codes(self) -> None:
        n = self._random.randint(1, 4)
        found = self._post("codes", "/v1/generate", self._body(n=n, format="codes"))
        if found and len(json.loads(found)["pictures"]) != n:
            self._tally.wrong.append(f"codes: wanted {n} pictures, found {found[:200]!r}")

    def _pictures(self) -> None:
        self._post(
            "pictures", "/v1/generate", self._body(n=self._random.randint(1, 3), guidance=self._random.choice([1, 2]))
        )

    def _stream(self) -> None:
        found = self._post("stream", "/v1/generate", self._body(n=2, stream=True, preview_every=64))
        if found and b"event: done" not in found:
            self._tally.wrong.append(f"stream: ended without done: {found[-200:]!r}")

    def _completion(self) -> None:
        self._post("completion", "/v1/generate", self._body(init=self._picture, keep="top", paste=True))

    def _larger(self) -> None:
        self._post("larger", "/v1/generate", self._body(size=f"{SIZE + 32}x{SIZE}", window_shift=8))

    def _encode(self) -> None:
        self._post("encode", "/v1/encode", {"image": self._picture})

    def _decode(self) -> None:
        codes = [[[self._random.randrange(1024) for _ in range(16)] for _ in range(16)]]
        self._post("decode", "/v1/decode", {"codes": codes})

    def _abandon(self) -> None:
        client = Client(self._port)
        body = self._body(n=self._random.randint(1, 8), stream=self._random.random() < 0.5)
        client.abandon("/v1/generate", body, after_s=self._random.random() * 0.3)
        self._tally.abandoned += 1

    def _nonsense(self) -> None:
        body = self._random.choice(
            [b"{", b"", b"\x00\xff", {"class": "ocean"}, {"n": 1 << 70}, {"init": "%%"}, {"size": "9999x9999"},
             {"class": 1, "init": self._picture[: len(self._picture) // 2], "keep": "left"}, {"unknown": 1}, [[[]]]]
        )  # fmt: skip
        self._post("nonsense", "/v1/generate", body, wanted=(400, 413, 429))

    def _too_late(self) -> None:
        self._post("too late", "/v1/generate", self._body(n=8, timeout=0.01), wanted=(504, 429))

    def _look(self) -> None:
        answer = self._client.get(self._random.choice(["/metrics", "/", "/readyz", "/v1/models", "/openapi.json"]))
        self._tally.note("look", answer.status, (200,), answer.body)


def soak(bundle: Path | None, *, seconds: float, clients: int, backend: str = "auto", seed: int = 0) -> Soaked:
    """Return what a server of a bundle (a class model of 128 x 128 pixels; the demo for None) did under mixed load."""
    tally = Tally()
    memory: list[int] = []
    failures: list[str] = []
    with ServerProcess(bundle, "--backend", backend, "--queue", "48", "--rows", "16") as server:
        server.metrics()
        files = server.open_files()  # once it has answered, as it opens some for its first answer
        end = time.monotonic() + seconds

        def work(number: int) -> None:
            try:
                mixed = _Mixed(server.port, tally, seed + number)
                while time.monotonic() < end:
                    mixed.step()
            except Exception as error:  # noqa: BLE001  told with the rest
                failures.append(f"a client: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            memory.append(server.resident_bytes())
            time.sleep(SAMPLE_S)
        problems = [*failures, *tally.wrong, *_settled(server, files)]
        last = server.resident_bytes()
        if server.end() != 0:
            problems.append("the server did not end with status 0")
    warm = max(memory[: max(1, round(max(len(memory) * WARM_SHARE, WARM_S / SAMPLE_S)))])
    if last > warm + ALLOWED_GROWTH_BYTES:
        problems.append(f"memory: {warm >> 20} MB once warm, {last >> 20} MB at the end")
    return Soaked(
        seconds=seconds,
        answers={f"{kind} {status}": count for (kind, status), count in sorted(tally.answers.items())},
        abandoned=tally.abandoned,
        problems=problems,
        warm_bytes=warm,
        end_bytes=last,
        most_bytes=max(memory),
        memory_mb=[memory[len(memory) * i // MOMENTS] >> 20 for i in range(MOMENTS)],
    )


def _settled(server: ServerProcess, files: int) -> list[str]:
    """Return what is still held, or was lost, once all clients have gone."""
    limit = time.monotonic() + SETTLE_S
    client = Client(server.port)
    while True:
        found = server.metrics(client)
        held = [
            name for name in ("requests_under_way", "running_pictures", "queue_pictures") if found[f"trt_vqgan_{name}"]
        ]
        leaked = server.open_files() > files + 1
        if (not held and not leaked) or time.monotonic() > limit:
            break
        time.sleep(0.1)
    problems = [f"{name}: {found[f'trt_vqgan_{name}']:.0f} long after the last request" for name in held]
    if leaked:
        problems.append(f"open files: {files} at first, {server.open_files()} at the end")
    ended = sum(
        found[f'trt_vqgan_pictures_total{{outcome="{name}"}}']
        for name in ("finished", "cancelled", "overdue", "failed")
    )
    accepted = found["trt_vqgan_pictures_accepted_total"]
    if ended != accepted:
        problems.append(f"lost: {accepted:.0f} pictures were accepted, {ended:.0f} ended")
    if found['trt_vqgan_pictures_total{outcome="failed"}']:
        problems.append("some pictures failed")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.serving.soak", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="a class model of 128 x 128 pixels [default: the demo]")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=12)
    options = parser.parse_args(arguments)
    try:
        found = soak(options.bundle, seconds=options.seconds, clients=options.clients, backend=options.backend)
    except TrtVqganError as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(dataclasses.asdict(found), indent=1))
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
