"""The published placement of windows, and a plan that respects what each code sees."""

from __future__ import annotations

import numpy as np
import pytest

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.window_plan import Rule, local_position, plan_windows, positions_computed, window_origin

SIZES = [(16, 16), (17, 33), (16, 40), (40, 16), (24, 20), (33, 64)]


def test_local_positions_of_the_published_rule() -> None:
    assert [local_position(i, 20, 16) for i in range(20)] == [*range(9), 8, 8, 8, 8, *range(9, 16)]
    assert [local_position(i, 16, 16) for i in range(16)] == list(range(16))


@pytest.mark.parametrize("rule", ["centred", "margin"])
@pytest.mark.parametrize("shift", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [16, 17, 23, 64])
def test_every_code_lies_inside_its_window(rule: Rule, shift: int, length: int) -> None:
    for position in range(length):
        origin = window_origin(position, length, side=16, rule=rule, shift=shift)
        assert 0 <= origin <= length - 16
        assert 0 <= position - origin < 16


@pytest.mark.parametrize("rule", ["centred", "margin"])
@pytest.mark.parametrize("shift", [1, 3, 8])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_no_task_comes_before_what_it_sees(rule: Rule, shift: int, height: int, width: int) -> None:
    done = np.zeros((height, width), dtype=bool)
    steps = plan_windows(np.ones((height, width), bool), side=16, rule=rule, shift=shift)
    for step in steps:
        for task in step:
            top, left = task.origin
            window = done[top : top + 16, left : left + 16].reshape(-1)
            assert window[: task.prefix].all()
            assert (task.row - top) * 16 + task.column - left == task.prefix
        for task in step:
            assert not done[task.row, task.column]
            done[task.row, task.column] = True
    assert done.all()
    assert len(steps) == 16 * (height - 1) + width


def test_rows_run_side_by_side() -> None:
    steps = plan_windows(np.ones((64, 64), bool), side=16)
    assert len(steps) == 1072
    assert max(len(step) for step in steps) == 4


def test_a_window_is_kept_while_a_later_code_needs_it() -> None:
    steps = plan_windows(np.ones((20, 24), bool), side=16)
    last_use: dict[tuple[int, int], int] = {}
    tasks = [task for step in steps for task in step]
    for index, task in enumerate(tasks):
        last_use[task.origin] = index
    for index, task in enumerate(tasks):
        assert task.more == (last_use[task.origin] > index)


@pytest.mark.parametrize(("condition_tokens", "most"), [(256, 235), (1, 90)])
def test_positions_a_code_at_64x64(condition_tokens: int, most: int) -> None:
    steps = plan_windows(np.ones((64, 64), bool), side=16)
    assert positions_computed(steps, condition_tokens=condition_tokens) / 4096 <= most
    assert positions_computed(steps, condition_tokens=condition_tokens, shared=False) / 4096 > 1.4 * most


def test_kept_codes_cost_nothing() -> None:
    free = np.zeros((32, 32), bool)
    free[20, 5] = True
    (step,) = plan_windows(free, side=16)
    assert [(task.row, task.column, task.more) for task in step] == [(20, 5, False)]
    assert plan_windows(np.zeros((32, 32), bool), side=16) == []


@pytest.mark.parametrize(("shape", "shift"), [((15, 40), 1), ((40, 15), 1), ((20, 20), 0), ((20, 20), 9)])
def test_what_can_not_be_planned(shape: tuple[int, int], shift: int) -> None:
    with pytest.raises(ShapeError, match="wanted"):
        plan_windows(np.ones(shape, bool), side=16, shift=shift)
