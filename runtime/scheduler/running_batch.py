"""The batch that pictures join and leave at any code, each at its own position."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.scheduler.picture import RunningPicture
from trt_vqgan.runtime.scheduler.prefill import Prefix, Prefixes

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

PREFILL_POSITIONS = 64
"""Positions of joining pictures that are computed between two steps of those that run."""

ALONE_POSITIONS = 256
"""The same where nothing runs; between two of them a picture may leave."""


class RunningBatch:
    """Pictures that are drawn together, in rows of one cache. Not safe to call from several threads.

    The rows in use are always the first of the cache, so that a step computes no others: when a picture leaves, the
    last row moves to its place.

    Parameters
    ----------
    generator : of the model.
    rows : of the cache: pictures at once, or half as many with guidance.

    Attributes
    ----------
    codes : drawn or kept so far.
    sizes : steps so far, by the number of rows that they computed.
    """

    def __init__(self, generator: CodeGenerator, *, rows: int) -> None:
        condition = generator.spec.condition
        assert condition is not None
        assert rows >= 2
        self._generator, self._engine = generator, generator.engine
        self.rows = rows
        self.codes = 0
        self.sizes = [0] * (rows + 1)
        capacity = condition.num_tokens + generator.spec.num_codes - 1  # the last code takes no position
        self._cache = self._engine.new_cache(batch=rows, capacity=capacity)
        self._stepper = self._engine.stepper(self._cache)
        self._prefixes = Prefixes(self._engine)
        self._joining: collections.deque[RunningPicture] = collections.deque()
        self._running: list[RunningPicture] = []
        self._row_of: list[
            tuple[RunningPicture, int]
        ] = []  # what each row in use is of: a picture, and which of its rows
        self._tokens: Int64Array = np.zeros(rows, dtype=np.int64)  # that the next step appends
        self._lengths: Int64Array = np.zeros(rows, dtype=np.int64)  # positions that each row holds

    @property
    def pictures(self) -> list[RunningPicture]:
        """All pictures in the batch."""
        return [*self._running, *self._joining]

    @property
    def rows_in_use(self) -> int:
        """Rows that the next step computes."""
        return len(self._row_of)

    def has_room(self, width: int) -> bool:
        """Whether a picture of ``width`` rows may join."""
        taken = len(self._row_of) + sum(picture.request.width for picture in self._joining)
        return taken + width <= self.rows

    def join(self, picture: RunningPicture) -> None:
        """Take in a picture for which there is room and which isn't finished; next steps compute its prefix."""
        assert self.has_room(picture.request.width)
        assert not picture.finished
        prefixes = picture.prefixes()
        if len(prefixes[0]) > 1:
            self._joining.append(picture)
            return
        # one token is no prefill: the next step appends it beside the other rows' codes, with the same bits
        self._place(picture, [int(prefix[0]) for prefix in prefixes], None)

    def leave(self, picture: RunningPicture) -> None:
        """Drop a picture, finished or not, and free its rows."""
        if picture in self._joining:
            self._joining.remove(picture)
            for prefix in picture.prefixes():
                self._prefixes.forget(prefix)  # another picture that waits for the same one begins it again
            return
        self._running.remove(picture)
        for row in sorted(picture.rows, reverse=True):
            last = len(self._row_of) - 1
            if row != last:
                moved, which = self._row_of[last]
                self._cache.copy_rows(self._cache, np.array([last]), int(self._lengths[last]), first=row)
                self._row_of[row] = moved, which
                moved.rows[which] = row
                self._tokens[row], self._lengths[row] = self._tokens[last], self._lengths[last]
            self._row_of.pop()
        picture.rows.clear()

    def clear(self) -> None:
        """Drop all pictures."""
        for picture in self.pictures:
            picture.rows.clear()
        self._joining.clear()
        self._running.clear()
        self._row_of.clear()
        self._prefixes.clear()

    def advance(self) -> tuple[list[RunningPicture], list[tuple[RunningPicture, ShapeError]]]:
        """Draw the next code of every picture that runs, and compute some more of the prefix of those that join.

        Returns
        -------
        the pictures that are finished, and those that failed, each with its error. Neither is in the batch any more.
        """
        failed: list[tuple[RunningPicture, ShapeError]] = []
        ended = self._prefill(failed)
        if self._row_of:
            count = len(self._row_of)
            logits = self._stepper.step(self._tokens[:count], self._lengths[:count])
            self._lengths[:count] += 1
            self.sizes[count] += 1
            self._draw(list(self._running), [picture.logits(logits) for picture in self._running], failed)
            ended += [picture for picture in self._running if picture.finished]
        for picture in [*ended, *(picture for picture, _ in failed)]:
            if picture in self._running:
                self.leave(picture)
        return ended, failed

    def _prefill(self, failed: list[tuple[RunningPicture, ShapeError]]) -> list[RunningPicture]:
        """Compute more of the prefixes of those that wait, in turn; return pictures that end with the first code."""
        budget = PREFILL_POSITIONS if self._row_of else ALONE_POSITIONS
        ended: list[RunningPicture] = []
        while self._joining and budget > 0:
            picture = self._joining[0]
            block = max(len(picture.request.condition), self._engine.spec.num_unmasked)
            prefixes: list[Prefix] = []
            for tokens in picture.prefixes():
                if budget <= 0:
                    return ended
                spent, prefix = self._prefixes.advance(tokens, block=block, positions=budget)
                budget -= spent
                if prefix is None:
                    return ended
                prefixes.append(prefix)
            self._joining.popleft()
            logits = picture.combined(np.stack([prefix.logits for prefix in prefixes]))
            codes = self._draw([picture], [logits], failed)
            if codes and picture.finished:
                ended.append(picture)
            elif codes:
                self._place(picture, codes * picture.request.width, prefixes)
        return ended

    def _place(self, picture: RunningPicture, tokens: list[int], prefixes: list[Prefix] | None) -> None:
        """Give a picture its rows: ``tokens`` are the next ones, after ``prefixes`` or nothing."""
        for which, token in enumerate(tokens):
            row = len(self._row_of)
            length = 0
            if prefixes is not None:
                length = prefixes[which].length
                self._cache.copy_rows(prefixes[which].cache, np.array([0]), length, first=row)
            self._row_of.append((picture, which))
            picture.rows.append(row)
            self._tokens[row], self._lengths[row] = token, length
        self._running.append(picture)

    def _draw(
        self,
        pictures: Sequence[RunningPicture],
        logits: Sequence[FloatArray],
        failed: list[tuple[RunningPicture, ShapeError]],
    ) -> list[int]:
        """Take the next code of each picture, drawn from its logits float32 (V,) unless it is kept; return them."""
        groups: dict[Sampling, list[int]] = {}
        for i, picture in enumerate(pictures):
            if picture.draws:
                groups.setdefault(picture.request.sampling, []).append(i)
        drawn: dict[int, int] = {}
        for sampling, members in groups.items():
            drawn.update(self._draw_alike(sampling, members, pictures, logits, failed))
        bad = {id(picture) for picture, _ in failed}
        codes = []
        for i, picture in enumerate(pictures):
            if id(picture) in bad:
                continue
            code = picture.take(drawn.get(i))
            codes.append(code)
            self.codes += 1
            for row in picture.rows:
                self._tokens[row] = code
        return codes

    def _draw_alike(
        self,
        sampling: Sampling,
        members: list[int],
        pictures: Sequence[RunningPicture],
        logits: Sequence[FloatArray],
        failed: list[tuple[RunningPicture, ShapeError]],
    ) -> dict[int, int]:
        """Return the codes of the pictures ``members``, all of one sampling; those without any are ``failed``."""
        random = np.array([pictures[i].random for i in members], dtype=np.uint64)
        try:
            codes = self._engine.draw_codes(np.stack([logits[i] for i in members]), sampling, random=random)
            return dict(zip(members, codes.tolist(), strict=True))
        except ShapeError as error:  # of some picture: the others must not suffer for it
            if len(members) == 1:
                failed.append((pictures[members[0]], error))
                return {}
        found: dict[int, int] = {}
        for i in members:
            found |= self._draw_alike(sampling, [i], pictures, logits, failed)
        return found
