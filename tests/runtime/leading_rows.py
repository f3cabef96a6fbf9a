"""Steps of some of a cache's rows, which come, go and move: what every engine must do alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtime.small_models import random_tokens


def check_leading_rows(engine: Any) -> None:
    """Step the first few rows of a cache, move one to where another has gone, and compare each with its prefill."""
    tokens = random_tokens(engine.spec, 4, 90)
    whole = engine.new_cache(batch=4, capacity=90)
    wanted = engine.prefill(whole, tokens, rows=np.arange(90), block=1)
    cache = engine.new_cache(batch=4, capacity=90)
    sequences, lengths = [0, 1, 2, 3], [3, 40, 72, 1]
    for row, length in enumerate(lengths):
        alone = engine.new_cache(batch=1, capacity=length)
        engine.prefill(alone, tokens[row : row + 1, :length], rows=np.array([length - 1]), block=1)
        if row == 1:
            stepper = engine.stepper(cache)  # what is copied later may move its rows
        cache.copy_rows(alone, np.array([0]), length, first=row)

    def step(count: int) -> None:
        which, at = np.array(sequences[:count]), np.array(lengths[:count])
        np.testing.assert_array_equal(stepper.step(tokens[which, at], at), wanted[which, at])
        lengths[:count] = at + 1

    for count in (4, 2, 2, 3, 1, 4):
        step(count)
    cache.copy_rows(cache, np.array([3]), lengths[3], first=1)  # row 1 leaves, the last one takes its place
    sequences[1], lengths[1] = sequences[3], lengths[3]
    for count in (3, 1, 3):
        step(count)
