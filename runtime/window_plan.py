"""Which window predicts which code of a grid larger than the training grid, and in which order.

A code is predicted from the condition and the codes before it inside a window of the training size. Two published
rules place the window: centred (conditional samplers) and, for box models, a fixed margin. Both are followed exactly;
the plan only leaves out what can't be seen and never computes the same position of the same window twice.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError

Rule = Literal["centred", "margin"]

BoolArray = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One code to be predicted.

    Attributes
    ----------
    row, column : its place in the grid.
    origin : (row, column) of its window's first code.
    prefix : codes of the window before it, in raster order inside the window.
    more : whether a later code uses the same window, so that its cache is worth keeping.
    """

    row: int
    column: int
    origin: tuple[int, int]
    prefix: int
    more: bool


def local_position(position: int, length: int, side: int) -> int:
    """Return where a code stands inside its centred window, along one axis.

    Source: the published conditional sampler: in the middle, and nearer to the border where the picture ends.
    """
    if position <= side // 2:
        return position
    if length - position < side // 2:
        return side - (length - position)
    return side // 2


def window_origin(position: int, length: int, *, side: int, rule: Rule = "centred", shift: int = 1) -> int:
    """Return the first code of the window that predicts ``position``, along one axis of ``length`` codes.

    Parameters
    ----------
    side : codes along a side of the window; ``length`` is at least that.
    rule : "centred", or "margin": clip(position - (side / 2 - 1), 0, length - side), as for box models.
    shift : the window moves every ``shift`` codes; the codes between share it. 1 is the published sampler.
    """
    anchor = position - position % shift
    if rule == "margin":
        return int(np.clip(anchor - (side // 2 - 1), 0, length - side))
    return anchor - local_position(anchor, length, side)


def plan_windows(
    free: BoolArray, *, side: int, rule: Rule = "centred", shift: int = 1, wavefront: bool = True
) -> list[list[Task]]:
    """Return the steps in which the free codes are predicted; the tasks of a step don't depend on each other.

    A code at (i, j) sees row i - 1 up to the end of its window, at most column max(j + side / 2, side - 1), so step
    side x i + j comes after all that it needs: rows run staggered, and the result is that of raster order.

    Parameters
    ----------
    free : bool (h, w), codes to predict; the others are given.
    side : codes along a side of the window.
    wavefront : False for one code a step, in raster order.

    Raises
    ------
    ShapeError : a grid smaller than the window, or a shift that leaves codes outside their window.
    """
    height, width = free.shape
    if height < side or width < side:
        raise ShapeError(
            f"grid: found {width}x{height} codes, wanted at least {side}x{side}, the size that the model was trained on"
        )
    check_shift(shift, side=side)
    rows = [window_origin(i, height, side=side, rule=rule, shift=shift) for i in range(height)]
    columns = [window_origin(j, width, side=side, rule=rule, shift=shift) for j in range(width)]
    served: dict[tuple[int, int], int] = defaultdict(int)
    places = [(int(i), int(j)) for i, j in np.argwhere(free)]
    for i, j in places:
        served[rows[i], columns[j]] += 1
    steps: dict[int, list[Task]] = defaultdict(list)
    for i, j in places:
        origin = (rows[i], columns[j])
        served[origin] -= 1
        prefix = (i - rows[i]) * side + (j - columns[j])
        step = side * i + j if wavefront else width * i + j
        steps[step].append(Task(row=i, column=j, origin=origin, prefix=prefix, more=served[origin] > 0))
    return [steps[step] for step in sorted(steps)]


def check_shift(shift: int, *, side: int) -> None:
    """Raise ShapeError where a window that moves every ``shift`` codes would leave codes outside."""
    limit = side - side // 2
    if not 1 <= shift <= limit:
        raise ShapeError(f"window shift: found {shift}, wanted 1 to {limit}; a larger one leaves codes outside")


def positions_computed(steps: list[list[Task]], *, condition_tokens: int, shared: bool = True) -> int:
    """Return the sequence positions that a plan computes, when every window's cache is kept (or none is)."""
    if not shared:
        return sum(condition_tokens + task.prefix for step in steps for task in step)
    longest: dict[tuple[int, int], int] = defaultdict(int)
    for step in steps:
        for task in step:
            longest[task.origin] = max(longest[task.origin], condition_tokens + task.prefix)
    return sum(longest.values())
