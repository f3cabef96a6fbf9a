"""Times decode steps of several runners over the same codes, in turn."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.interleaving import PAUSE_SECONDS
from trt_vqgan.runtime.engine import Engine, Steps

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

STRETCH = 17
"""Steps of one runner before the next one's turn; 255 steps are 15 stretches. Short, so that a disturbance of seconds
meets all runners; not shorter, because each turn begins with the other's data in the caches."""

WARM_UP_STEPS = 3


class StepRunner(Protocol):
    """Runs the decode steps of one model with a cache of its own."""

    def start(self, prefix: Int64Array) -> None:
        """Begin with a cache that holds ``prefix`` int64 (B, L)."""

    def step(self, tokens: Int64Array, position: int) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``position`` and return logits float32 (B, V)."""


class EngineSteps:
    """Decode steps of the runtime, as its code generator makes them."""

    def __init__(self, engine: Engine, *, capacity: int) -> None:
        self._engine, self._capacity = engine, capacity
        self._stepper: Steps | None = None

    def start(self, prefix: Int64Array) -> None:
        """Begin with a cache that holds ``prefix`` int64 (B, L)."""
        cache = self._engine.new_cache(batch=len(prefix), capacity=self._capacity)
        self._engine.prefill(cache, prefix, rows=np.array([prefix.shape[1] - 1], dtype=np.int64), block=prefix.shape[1])
        self._stepper = self._engine.stepper(cache)

    def step(self, tokens: Int64Array, position: int) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``position`` and return logits float32 (B, V)."""
        assert self._stepper is not None
        return self._stepper.step(tokens, np.full(len(tokens), position, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """What one runner did.

    Attributes
    ----------
    rounds : seconds of each step, a list a round.
    logits : float32 (B, steps, V) of the first round.
    stretches : a stretch's mean step in seconds, and the bytes a second that the machine read just before and after it.
    """

    rounds: list[list[float]]
    logits: FloatArray
    stretches: list[tuple[float, float]]

    def sums(self) -> list[float]:
        """Return the seconds of all steps together, one number a round."""
        return [sum(steps) for steps in self.rounds]

    def all_steps(self) -> list[float]:
        """Return the seconds of each step of every round."""
        return [seconds for steps in self.rounds for seconds in steps]

    def share_of_reading(self, step_bytes: int) -> tuple[float, float]:
        """Return what a step of ``step_bytes`` reads over what the machine does, and the latter in bytes a second.

        Both are medians over the stretches. The machine's rate moves within seconds, so each stretch has its own.
        """
        shares = [step_bytes / seconds / rate for seconds, rate in self.stretches]
        return float(np.median(shares)), float(np.median([rate for _, rate in self.stretches]))


def time_steps(
    runners: Mapping[str, StepRunner],
    tokens: Int64Array,
    *,
    prefix: int,
    rounds: int,
    read: Callable[[], float] = lambda: math.nan,
    on_round: Callable[[int], object] = lambda done: None,
) -> dict[str, StepTimes]:
    """Return the times of each runner, which all get the same tokens.

    In each round every runner goes through the whole sequence once, in stretches of `STRETCH` steps by turns; the
    runner that begins a stretch changes from one to the next.

    Parameters
    ----------
    tokens : int64 (B, T); the first ``prefix`` are there before the first step, each other one is appended in a step.
    read : returns the bytes a second that the machine reads now; called, untimed, around each stretch.
    on_round : called with the number of rounds done.
    """
    names = list(runners)
    steps = tokens.shape[1] - prefix
    logits: dict[str, list[FloatArray]] = {name: [] for name in names}
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    stretches: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        runners[name].start(tokens[:, :prefix])
        for i in range(min(WARM_UP_STEPS, steps)):
            runners[name].step(tokens[:, prefix + i], prefix + i)
    for number in range(rounds):
        for name in names:
            runners[name].start(tokens[:, :prefix])
            seconds[name].append([])
        time.sleep(PAUSE_SECONDS)
        before = read()
        for turn, first in enumerate(range(0, steps, STRETCH)):
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                time.sleep(PAUSE_SECONDS)
                positions = range(prefix + first, prefix + min(first + STRETCH, steps))
                for position in positions:
                    start = time.perf_counter()
                    found = runners[name].step(tokens[:, position], position)
                    seconds[name][-1].append(time.perf_counter() - start)
                    if number == 0:
                        logits[name].append(found.copy())
                time.sleep(PAUSE_SECONDS)  # or threads that are still awake slow the reading down
                after = read()
                mean = sum(seconds[name][-1][-len(positions) :]) / len(positions)
                stretches[name].append((mean, (before + after) / 2))
                before = after
        on_round(number + 1)
    return {name: StepTimes(seconds[name], np.stack(logits[name], axis=1), stretches[name]) for name in names}
