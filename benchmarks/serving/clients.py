"""Clients that ask one picture after another, all at once, for a while."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.serving.server_process import Client
from trt_vqgan.errors import ParityError
from trt_vqgan.runtime.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """One picture that was answered: its class and seed, the codes int64 (h, w), seconds, and when it ended."""

    class_id: int
    seed: int
    codes: npt.NDArray[np.int64]
    seconds: float
    ended: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What clients got.

    Attributes
    ----------
    clients : how many.
    threads : of the server.
    pictures : whether answers held pictures, or codes only.
    codes_per_s : over the time in which all asked.
    p50_ms, p99_ms : of whole requests.
    answers : requests.
    """

    clients: int
    threads: int
    pictures: bool
    codes_per_s: float
    p50_ms: float
    p99_ms: float
    answers: int


def ask_together(
    port: int, *, clients: int, seconds: float, pictures: bool, classes: int, seed: int
) -> tuple[list[Asked], float]:
    """Return what clients got that ask for one picture after another, and the seconds that it took in all."""
    asked: list[Asked] = []
    failures: list[BaseException] = []
    start = threading.Barrier(clients + 1)

    def work(number: int) -> None:
        try:
            client = Client(port)
            client.get("/healthz")
            start.wait()
            end = time.perf_counter() + seconds
            i = 0
            while time.perf_counter() < end:
                body: dict[str, Any] = {"class": (number + i) % classes, "seed": seed + 1000 * number + i}
                answer = client.post("/v1/generate", body | {"format": "json" if pictures else "codes"})
                if answer.status != 200:
                    raise ParityError(f"server: answered {answer.status}, {answer.body[:200]!r}, wanted 200")
                codes = np.array(answer.json()["pictures"][0]["codes"], dtype=np.int64)
                asked.append(
                    Asked(
                        class_id=body["class"], seed=body["seed"], codes=codes, seconds=answer.seconds,
                        ended=time.perf_counter(),
                    )
                )  # fmt: skip
                i += 1
        except Exception as error:  # noqa: BLE001  raised again by the caller's thread
            failures.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return asked, max(one.ended for one in asked) - began


def load_of(asked: Sequence[Asked], total_s: float, *, clients: int, threads: int, pictures: bool) -> Load:
    """Return what was got as one row."""
    times = np.array([one.seconds for one in asked]) * 1e3
    return Load(
        clients=clients,
        threads=threads,
        pictures=pictures,
        codes_per_s=sum(one.codes.size for one in asked) / total_s,
        p50_ms=float(np.percentile(times, 50)),
        p99_ms=float(np.percentile(times, 99)),
        answers=len(asked),
    )


def check_codes(pipeline: Pipeline, asked: Sequence[Asked], *, samples: int) -> int:
    """Compare some of the answers with the same pictures made alone; return how many.

    Raises
    ------
    ParityError : a code differs.
    """
    chosen = [asked[i] for i in np.linspace(0, len(asked) - 1, min(samples, len(asked))).astype(int)]
    for one in chosen:
        alone = next(iter(pipeline.generate_stream(n=1, class_id=one.class_id, seed=one.seed)))[1]
        if not np.array_equal(alone, one.codes):
            raise ParityError(
                f"server: class {one.class_id}, seed {one.seed} has other codes in a crowd than alone "
                f"({int((alone != one.codes).sum())} of {alone.size} differ)"
            )
    return len(chosen)
