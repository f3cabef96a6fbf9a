"""Runs contenders in turn, so that whatever the machine does meanwhile is done to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Work = Callable[[], object]
Key = TypeVar("Key", bound=str)

PAUSE_SECONDS = 0.05
"""Between contenders: the threads of the one before still spin after its last piece of work. Those of ONNX Runtime did
for 30 to 40 ms, torch's for 10."""

AfterRound = Callable[[int], None]


def in_turn(
    contenders: Mapping[str, Work], *, rounds: int, warm_up: int = 1, after_round: AfterRound | None = None
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round.

    Every round runs each contender once, starting with another one than the round before.

    Parameters
    ----------
    warm_up : rounds before, of which nothing is kept.
    after_round : called after each round that counts, with the rounds done.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            contenders[name]()
            elapsed = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(elapsed)
        if number >= 0 and after_round is not None:
            after_round(number + 1)
    return seconds
