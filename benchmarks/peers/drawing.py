"""What is measured of each runtime: the codes of pictures, drawn greedily after one start token, or a prefill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.decode_steps import EngineSteps, StepRunner
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.runtime.engine import Engine

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class Drawer(Protocol):
    """One runtime with one model's weights.

    Attributes
    ----------
    runner : the runtime and its version.
    """

    runner: str

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return ``count`` codes of each row, int64 (B, count): the likeliest, one after the other.

        Of a prefill, the likeliest after each of ``count`` tokens that are given.
        """


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


class PrefillDrawer:
    """A runtime that takes many tokens at once and keeps their keys and values.

    Parameters
    ----------
    runner : see `Drawer`.
    vocab_size : of the model.
    prefill : from tokens int64 (B, T) to logits float32 (B, T, V).
    """

    def __init__(self, runner: str, vocab_size: int, prefill: Callable[[Int64Array], FloatArray]) -> None:
        self.runner, self._vocab_size, self._prefill = runner, vocab_size, prefill

    def draw(self, batch: int, count: int) -> Int64Array:
        """Return the likeliest code after each of ``count`` tokens, the same in every turn, int64 (B, count)."""
        tokens = np.random.default_rng(0).integers(0, self._vocab_size, (batch, count))
        return np.asarray(self._prefill(tokens).argmax(axis=2), dtype=np.int64)


class EngineFromNothing(EngineSteps):
    """Steps of an engine of ours, from an empty cache."""

    def start(self, prefix: Int64Array) -> None:
        """Begin with an empty cache for as many rows as ``prefix`` (B, 0) has."""
        self._stepper = self._engine.stepper(self._engine.new_cache(batch=len(prefix), capacity=self._capacity))


def engine_drawer(runner: str, engine: Engine, job: Job) -> Drawer:
    """Return what ``job`` wants of an engine of ours: its steps, or its prefill into a new cache."""
    if job.what != "prefill":
        return SteppingDrawer(runner, EngineFromNothing(engine, capacity=job.transformer.max_seq_len))

    def prefill(tokens: Int64Array) -> FloatArray:
        batch, count = tokens.shape
        return engine.prefill(engine.new_cache(batch=batch, capacity=count), tokens, rows=np.arange(count))

    return PrefillDrawer(runner, job.transformer.vocab_size, prefill)
