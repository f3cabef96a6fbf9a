"""The simulation of a job is the closed form where nothing is left to chance, and near it where something is."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trt_vqgan.benchmarks.scaling import (
    Machines,
    SamplingJob,
    forecast,
    main,
    most_machines,
    shard_seconds,
    simulate,
    start_seconds,
    write_seconds,
)
from trt_vqgan.errors import ShapeError

PLAIN = Machines(codes_per_second=1000, decode_seconds=0.5, shard_overhead_seconds=1e-9, write_bytes_per_second=1e18)
JOB = SamplingJob(pictures=1000, shard_size=10, codes=250, png_bytes=1e5)


def test_by_hand() -> None:
    """1,000 pictures of 0.25 s for codes and 0.5 s for pixels, 100 shards of 7.5 s, on 8 machines: 13 waves."""
    assert shard_seconds(JOB, PLAIN) == 7.5
    found = forecast(JOB, PLAIN, count=8)
    assert found.start_seconds == 10 + 3 * 0.5e9 / 1.25e9
    assert found.seconds == pytest.approx(11.2 + 13 * 7.5)
    assert found.busy == pytest.approx(1000 * 0.75 / (8 * (11.2 + 97.5)))
    assert found.disk_bytes == 1000 * (500 + 16 + 1e5)
    assert found.moved_bytes == found.disk_bytes + 7 * 0.5e9
    assert (found.limit, forecast(JOB, PLAIN, count=80).limit) == ("machines", "shards")
    assert shard_seconds(dataclasses.replace(JOB, png_bytes=0), PLAIN) == 2.5  # codes alone are not decoded
    assert start_seconds(1, PLAIN) == 10


@pytest.mark.parametrize("count", [1, 3, 8, 99, 100, 150])
def test_without_chance_it_is_the_closed_form(count: int) -> None:
    assert simulate(JOB, PLAIN, count=count).seconds == pytest.approx(forecast(JOB, PLAIN, count=count).seconds)


def test_writing_bounds_it() -> None:
    slow = dataclasses.replace(PLAIN, write_bytes_per_second=2e6)
    assert most_machines(JOB, slow) == pytest.approx(7.5 / write_seconds(JOB, slow))
    found, simulated = forecast(JOB, slow, count=60), simulate(JOB, slow, count=60)
    assert found.limit == "writing"
    assert simulated.seconds == pytest.approx(found.seconds, abs=2 * write_seconds(JOB, slow))
    more = forecast(JOB, slow, count=100)
    assert more.seconds - more.start_seconds == pytest.approx(found.seconds - found.start_seconds)


def test_failures_cost_what_the_closed_form_says() -> None:
    failing = dataclasses.replace(PLAIN, hours_between_failures=100 / 3600)
    many = dataclasses.replace(JOB, pictures=5000)
    found = forecast(many, failing, count=5).seconds
    assert found > 1.1 * forecast(many, PLAIN, count=5).seconds
    simulated = np.mean([simulate(many, failing, count=5, seed=seed).seconds for seed in range(10)])
    # the closed form takes half a shard to be lost, by the first order of failures in a shard
    assert simulated == pytest.approx(found, rel=0.05)
    with pytest.raises(ShapeError, match="make shards smaller"):
        forecast(JOB, dataclasses.replace(PLAIN, hours_between_failures=0.001), count=2)


def test_slow_shards_are_made_twice() -> None:
    """Second copies keep the end short: the mean of a spread is paid, not its longest."""
    spread = dataclasses.replace(PLAIN, spread=0.5)
    seconds = np.mean([simulate(JOB, spread, count=50, seed=seed).seconds for seed in range(10)])
    waves = 2 * 7.5 * math.exp(0.5**2 / 2)
    assert start_seconds(50, spread) + waves < seconds < start_seconds(50, spread) + 2.2 * waves


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    pytest.importorskip("matplotlib", reason="matplotlib isn't installed; `pip install '.[plots]'` installs it")
    assert main(["--pictures", "2000", "--machines", "1", "10", "1000", "--simulated", "10", "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["1", "10", "1,000"]
    assert lines[4].split("|")[3].strip() == "–"
    assert lines[-1].startswith("writing is busy all the time from ")
    with Image.open(plot) as image:
        assert image.width > 500
    assert main(["--machines", "0"]) == 1
    assert "machines: found 0" in capsys.readouterr().err
