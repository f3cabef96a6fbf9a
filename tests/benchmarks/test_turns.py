"""Who runs when: contenders alternate, nobody's warm-up counts, and every step is made once a round."""

from __future__ import annotations

import numpy as np
import pytest

from trt_vqgan.benchmarks import decode_steps, interleaving
from trt_vqgan.benchmarks.decode_steps import WARM_UP_STEPS, StepTimes, time_steps
from trt_vqgan.benchmarks.interleaving import in_turn
from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaving, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(decode_steps, "PAUSE_SECONDS", 0)


def test_contenders_alternate_and_the_first_one_changes() -> None:
    calls: list[str] = []
    done: list[int] = []
    seconds = in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, after_round=done.append
    )
    warm_up, counted = calls[:2], "".join(calls[2:])
    assert sorted(warm_up) == ["a", "b"]
    assert counted == "abbaab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert done == [1, 2, 3]


class Recorder:
    """Answers with logits that say which token and position it was given."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name, self.log = name, log
        self.logits = np.zeros((2, 3), dtype=np.float32)
        self.prefix: list[list[int]] = []

    def start(self, prefix: np.ndarray) -> None:
        self.prefix.append(prefix[0].tolist())

    def step(self, tokens: np.ndarray, position: int) -> np.ndarray:
        self.log.append((self.name, position))
        self.logits[:, 0], self.logits[:, 1] = tokens, position  # the same buffer each time, as the runtime's
        return self.logits


def test_steps_alternate_in_stretches_and_cover_the_sequence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_steps, "STRETCH", 4)
    log: list[tuple[str, int]] = []
    runners = {name: Recorder(name, log) for name in ("torch", "fp32")}
    tokens = np.arange(24).reshape(2, 12)
    rates = iter(range(1, 100))
    times = time_steps(runners, tokens, prefix=2, rounds=2, read=lambda: float(next(rates)))
    counted = log[2 * WARM_UP_STEPS :]
    assert len(counted) == 2 * 2 * 10
    for name in runners:
        assert [position for who, position in counted if who == name] == [*range(2, 12)] * 2
        assert [len(steps) for steps in times[name].rounds] == [10, 10]
        assert len(times[name].all_steps()) == 20
        assert times[name].sums() == [pytest.approx(sum(steps)) for steps in times[name].rounds]
    turns = [who for i, (who, _) in enumerate(counted[:20]) if i == 0 or counted[i - 1][0] != who]
    assert turns == ["torch", "fp32", "torch", "fp32"]  # who begins changes, so neighbours join
    # three stretches of each in a round, with the mean of the rates before and after
    assert [rate for _, rate in times["torch"].stretches] == [1.5, 4.5, 5.5, 8.5, 11.5, 12.5]
    assert [rate for _, rate in times["fp32"].stretches] == [2.5, 3.5, 6.5, 9.5, 10.5, 13.5]
    for name in runners:
        means = [sum(steps[i : i + 4]) / len(steps[i : i + 4]) for steps in times[name].rounds for i in (0, 4, 8)]
        assert [seconds for seconds, _ in times[name].stretches] == pytest.approx(means)
    assert all(runner.prefix == [[0, 1]] * 3 for runner in runners.values())
    # kept logits are copies, in the order of positions
    logits = times["fp32"].logits
    assert logits.shape == (2, 10, 3)
    assert logits[1, :, 0].tolist() == tokens[1, 2:].tolist()
    assert logits[0, :, 1].tolist() == [*range(2, 12)]


def test_share_of_reading_is_taken_in_each_stretch() -> None:
    """A machine that slows down to a third takes the steps with it, and the share stays."""
    times = StepTimes([], np.zeros((1, 0, 1), np.float32), [(1.0, 100.0), (3.0, 33.0), (1.0, 90.0)])
    share, rate = times.share_of_reading(90)
    assert share == pytest.approx(90 / 3.0 / 33.0)
    assert rate == 90.0


@pytest.mark.parametrize("threads", [1, 3])
def test_read_bandwidth(threads: int) -> None:
    with ReadBandwidth(threads=threads, array_bytes=1 << 20) as bandwidth:
        assert bandwidth.samples == []
        for _ in range(3):
            bandwidth.sample()
        assert len(bandwidth.samples) == 3
        assert 0 < bandwidth.median_gb_per_s <= bandwidth.best_gb_per_s
