"""What is measured of each runtime: the codes of pictures, drawn greedily after one start token."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.decode_steps import EngineSteps, StepRunner

Int64Array = npt.NDArray[np.int64]


class Drawer(Protocol):
    """One runtime with one model's weights.

    Attributes
    ----------
    runner : the runtime and its version.
    """

    runner: str

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` likeliest codes, one after the other, of each row, int64 (B, count)."""


def start_tokens(batch: int) -> Int64Array:
    """Return the token that each row begins with, int64 (B,): another one in each, so that no two rows are alike."""
    return np.arange(batch, dtype=np.int64)


class SteppingDrawer:
    """A runtime that gives the logits of each step.

    Parameters
    ----------
    runner : see `Drawer`.
    steps : of the runtime.
    """

    def __init__(self, runner: str, steps: StepRunner) -> None:
        self.runner, self._steps = runner, steps

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` codes of each row, int64 (B, count)."""
        codes = np.empty((batch, count), dtype=np.int64)
        tokens = start_tokens(batch)
        self._steps.start(np.empty((batch, 0), dtype=np.int64))
        for i in range(count):
            tokens = self._steps.step(tokens, i).argmax(axis=1)
            codes[:, i] = tokens
        return codes


class EngineFromNothing(EngineSteps):
    """Steps of an engine of ours, from an empty cache."""

    def start(self, prefix: Int64Array) -> None:
        """Begin with an empty cache for as many rows as ``prefix`` (B, 0) has."""
        self._stepper = self._engine.stepper(self._engine.new_cache(batch=len(prefix), capacity=self._capacity))
