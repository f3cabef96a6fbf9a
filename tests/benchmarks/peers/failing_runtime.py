"""A runtime that fails in the way that its precision says."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np

from trt_vqgan.benchmarks.peers.job import Job


def prepare(job: Job) -> None:
    if job.precision == "crashes in prepare":
        crash()


def open_drawer(job: Job) -> Failing:
    if job.precision == "raises":
        raise RuntimeError(f"no {job.folder}/model for this")
    if job.precision == "crashes when opened" and job.batch == 3:
        crash()
    return Failing(job.precision)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


class Failing:
    runner = "failing"

    def __init__(self, precision: str) -> None:
        self.precision, self.turns = precision, 0

    def draw(self, batch: int, count: int) -> np.ndarray:
        self.turns += 1
        if self.precision == "crashes in the second round" and batch == 3 and self.turns == 2:
            crash()
        if self.precision == "never sleeps" and batch == 3 and self.turns == 1:
            threading.Thread(target=spin, daemon=True).start()
        too_little = self.precision == "draws too little" and batch == 3
        return np.zeros((batch, count - too_little), dtype=np.int64)


def spin() -> None:
    while True:
        pass
