"""Prefixes computed a few positions at a time, so that a picture which joins doesn't hold up those that run."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.engine import Engine

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

REMEMBERED = 2
"""Prefixes whose caches are kept for the next picture: a request's pictures share theirs, and those without it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """A prefix that has been computed.

    Attributes
    ----------
    cache : of one row; holds ``length`` positions.
    logits : float32 (V,), of the last one.
    """

    cache: Any
    length: int
    logits: FloatArray


class Prefill:
    """The computation of one prefix.

    Parameters
    ----------
    engine : computes it.
    tokens : int64 (T,).
    block : leading positions that are computed as matrices, as `Engine.prefill` has it.
    """

    def __init__(self, engine: Engine, tokens: Int64Array, *, block: int) -> None:
        self._engine, self._tokens, self._block = engine, tokens, block
        self._cache = engine.new_cache(batch=1, capacity=len(tokens))
        self._done = 0

    def advance(self, positions: int) -> tuple[int, Prefix | None]:
        """Compute up to ``positions`` more; return how many it were, and the prefix once it is whole.

        Those that see each other both ways are computed at once, however many they are.
        """
        engine, start, length = self._engine, self._done, len(self._tokens)
        end = min(length, max(start + positions, engine.spec.num_unmasked))
        rows = np.arange(length - 1, length) if end == length else np.empty(0, dtype=np.int64)
        tokens = self._tokens[None, :end]
        if start == 0:
            logits = engine.prefill(self._cache, tokens, rows=rows, block=self._block)
        else:
            logits = engine.extend(self._cache, tokens, start=start, rows=rows, block=self._block)
        self._done = end
        if end < length:
            return end - start, None
        return end - start, Prefix(cache=self._cache, length=length, logits=logits[0, 0])


class Prefixes:
    """Prefills under way and the last few that are done, by their tokens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._done: collections.OrderedDict[bytes, Prefix] = collections.OrderedDict()
        self._under_way: dict[bytes, Prefill] = {}

    def advance(self, tokens: Int64Array, *, block: int, positions: int) -> tuple[int, Prefix | None]:
        """Compute up to ``positions`` more of ``tokens`` int64 (T,), which may be done; as `Prefill.advance`."""
        key = tokens.tobytes()
        if key in self._done:
            self._done.move_to_end(key)
            return 0, self._done[key]
        prefill = self._under_way.get(key)
        if prefill is None:
            prefill = self._under_way[key] = Prefill(self._engine, tokens, block=block)
        spent, prefix = prefill.advance(positions)
        if prefix is not None:
            del self._under_way[key]
            self._done[key] = prefix
            if len(self._done) > REMEMBERED:
                self._done.popitem(last=False)
        return spent, prefix

    def forget(self, tokens: Int64Array) -> None:
        """Drop the computation of ``tokens`` where it is under way."""
        self._under_way.pop(tokens.tobytes(), None)

    def clear(self) -> None:
        """Drop everything."""
        self._done.clear()
        self._under_way.clear()
