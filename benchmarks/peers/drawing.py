"""What is measured of each runtime: the codes of pictures, drawn greedily after one start token."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.decode_steps import StepRunner

Int64Array = npt.NDArray[np.int64]


class Drawer(Protocol):
    """One runtime with one model's weights.

    Attributes
    ----------
    runner : the runtime and its version.
    precision : of the weights, as the runtime names it.
    """

    runner: str
    precision: str

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` likeliest codes, one after the other, of each row, int64 (B, count)."""


class SteppingDrawer:
    """A runtime that gives the logits of each step.

    Parameters
    ----------
    runner, precision : see `Drawer`.
    steps : of the runtime.
    start : token that every row begins with.
    """

    def __init__(self, runner: str, precision: str, steps: StepRunner, *, start: int = 0) -> None:
        self.runner, self.precision = runner, precision
        self._steps, self._start = steps, start

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` codes of each row, int64 (B, count)."""
        codes = np.empty((batch, count), dtype=np.int64)
        tokens = np.full(batch, self._start, dtype=np.int64)
        self._steps.start(np.empty((batch, 0), dtype=np.int64))
        for i in range(count):
            tokens = self._steps.step(tokens, i).argmax(axis=1)
            codes[:, i] = tokens
        return codes
