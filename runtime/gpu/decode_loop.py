"""The steps of one drawing: issued ahead of the device, and looked after now and then."""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.device.interface import Device, Event
from trt_vqgan.runtime.gpu.decode_plan import DecodePlan
from trt_vqgan.runtime.gpu.state import Drawing, checked_codes

Int64Array = npt.NDArray[np.int64]

STEPS_AHEAD = 32
"""Steps after which the host looks whether the device has kept up; at most twice as many are under way."""

OnSteps = Callable[[int], None]
OnCodes = Callable[[int, Int64Array], None]


class DecodeLoop:
    """A loop whose state and first logits are in its plan.

    Parameters
    ----------
    device, plan, drawing : what is drawn, and where.
    on_steps : called with the number of steps that are done.
    on_codes : called with steps and codes int64 (B, N), after each number of steps in ``show_after``.
    """

    def __init__(
        self,
        device: Device,
        plan: DecodePlan,
        drawing: Drawing,
        *,
        on_steps: OnSteps | None,
        on_codes: OnCodes | None,
        show_after: frozenset[int],
    ) -> None:
        self._device, self._plan, self._drawing = device, plan, drawing
        self._on_steps, self._on_codes = on_steps, on_codes
        self._shown = show_after if on_codes is not None else frozenset()
        self._under_way: collections.deque[tuple[int, Event]] = collections.deque()

    def run(self) -> Int64Array:
        """Return the finished codes int64 (B, N)."""
        total = self._drawing.steps
        stops = {stop for stop in self._shown if stop < total} | {*range(STEPS_AHEAD, total, STEPS_AHEAD), total}
        issued = 0
        for stop in sorted(stops):
            while issued < stop:
                if issued == 0:
                    self._plan.sample()  # from the logits of the prefill
                else:
                    self._plan.step()
                issued += 1
            self._under_way.append((stop, self._device.record()))
            if stop in self._shown and self._on_codes is not None:
                self._wait(leaving=0)
                self._on_codes(stop, self._codes())
            else:
                self._wait(leaving=1)
        self._wait(leaving=0)
        return self._codes()

    def _wait(self, *, leaving: int) -> None:
        """Wait for all but the last ``leaving`` points, and say so."""
        while len(self._under_way) > leaving:
            done, event = self._under_way.popleft()
            event.wait()
            if self._on_steps is not None:
                self._on_steps(done)

    def _codes(self) -> Int64Array:
        return checked_codes(self._device.download(self._plan.state.codes), self._drawing.batch)
