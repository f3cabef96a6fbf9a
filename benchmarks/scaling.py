"""``python -m trt_vqgan.benchmarks.scaling``: how a sampling job grows from one machine to thousands.

A closed form (`forecast`) and a simulation of the real hand-out of shards (`simulate`), with machines that differ, die
and start again. docs/scaling.md explains both; every number there comes from this command.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.arguments import file_argument
from trt_vqgan.errors import ShapeError, TrtVqganError
from trt_vqgan.runtime.jobs.shard_queue import MAX_LOSSES, ShardQueue
from trt_vqgan.runtime.jobs.shards import Shard, shards_of

SECONDS_AN_HOUR = 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines:
    """What one machine does, and what joins them.

    Attributes
    ----------
    codes_per_second : drawn by one machine.
    decode_seconds : of a picture.
    open_seconds : for opening the bundle and trying it.
    bundle_bytes : sent to a machine that doesn't have it.
    network_bytes_per_second : of each machine.
    hours_between_failures : of one machine, in the mean; infinite for none.
    spread : standard deviation of the logarithm of a shard's time: 0.1 for a tenth slower or faster.
    write_bytes_per_second : at which the machine that hands out takes finished shards: its network or its disk.
    shard_overhead_seconds : of that machine for a shard, whatever its size.
    """

    codes_per_second: float
    decode_seconds: float
    open_seconds: float = 10.0
    bundle_bytes: float = 0.5e9
    network_bytes_per_second: float = 1.25e9
    hours_between_failures: float = math.inf
    spread: float = 0.0
    write_bytes_per_second: float = 0.5e9
    shard_overhead_seconds: float = 0.003


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingJob:
    """What is to be made.

    Attributes
    ----------
    codes : of a picture.
    png_bytes : of a picture's file; 0 for codes only.
    """

    pictures: int
    shard_size: int
    codes: int
    png_bytes: float

    @property
    def num_shards(self) -> int:
        """Shards, the last one perhaps smaller."""
        return math.ceil(self.pictures / self.shard_size)

    @property
    def picture_bytes(self) -> float:
        """On the disk, a picture: two bytes a code, its number and class, and its file."""
        return 2 * self.codes + 16 + self.png_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long a job takes.

    Attributes
    ----------
    seconds : from the command to the last shard on the disk.
    start_seconds : of these, until the machines draw.
    busy : share of the time that the mean machine draws or decodes what is kept.
    limit : what the time is bounded by: "machines", "shards" (too few for the machines) or "writing".
    disk_bytes, moved_bytes : written, and sent over the network, the bundle included.
    """

    machines: int
    seconds: float
    start_seconds: float
    busy: float
    limit: str
    disk_bytes: float
    moved_bytes: float

    def pictures_per_hour(self, pictures: int) -> float:
        """Of the whole job, start included."""
        return pictures / self.seconds * SECONDS_AN_HOUR


def shard_seconds(job: SamplingJob, machines: Machines, *, pictures: int | None = None) -> float:
    """Return what one machine takes for a shard, or for ``pictures`` of one."""
    count = job.shard_size if pictures is None else pictures
    # without its file, a picture isn't decoded
    return count * (job.codes / machines.codes_per_second + (machines.decode_seconds if job.png_bytes else 0.0))


def write_seconds(job: SamplingJob, machines: Machines, *, pictures: int | None = None) -> float:
    """Return what the machine that hands out takes to put a shard on its disk."""
    count = job.shard_size if pictures is None else pictures
    return machines.shard_overhead_seconds + count * job.picture_bytes / machines.write_bytes_per_second


def start_seconds(count: int, machines: Machines) -> float:
    """Return when ``count`` machines can draw: each that has the bundle sends it on, so those that have it double."""
    rounds = math.ceil(math.log2(count)) if count > 1 else 0
    return machines.open_seconds + rounds * machines.bundle_bytes / machines.network_bytes_per_second


def most_machines(job: SamplingJob, machines: Machines) -> float:
    """Return how many machines keep the writing busy all the time; more of them make nothing faster."""
    return shard_seconds(job, machines) / write_seconds(job, machines)


def forecast(job: SamplingJob, machines: Machines, *, count: int) -> Forecast:
    """Return the closed form.

    Shards go in waves, ``ceil(shards / machines)`` of them; a failure costs half a shard and a start, and each machine
    has ``time / hours_between_failures`` of them. Shards that come faster than they are written wait.
    """
    if count < 1:
        raise ShapeError(f"machines: found {count}, wanted at least 1")
    own = shard_seconds(job, machines)
    begin = start_seconds(count, machines)
    waves = math.ceil(job.num_shards / count)
    lost = (own / 2 + machines.open_seconds) / (machines.hours_between_failures * SECONDS_AN_HOUR)
    if lost >= 1:
        raise ShapeError("hours between failures: machines fail before they finish a shard; make shards smaller")
    drawing = waves * own / (1 - lost)
    one_write = write_seconds(job, machines)
    writing = own + job.num_shards * one_write  # the first shard has to be made before one can be written
    seconds = begin + max(drawing + one_write, writing)
    whole = job.pictures * own / job.shard_size
    if job.num_shards * one_write > drawing:
        limit = "writing"
    else:
        limit = "shards" if waves * count > 1.2 * job.num_shards else "machines"
    disk = job.pictures * job.picture_bytes
    return Forecast(
        machines=count,
        seconds=seconds,
        start_seconds=begin,
        busy=whole / (count * seconds),
        limit=limit,
        disk_bytes=disk,
        moved_bytes=disk + (count - 1) * machines.bundle_bytes,
    )


def simulate(job: SamplingJob, machines: Machines, *, count: int, seed: int = 0) -> Forecast:
    """Return what happens to one job, event by event, with the queue that hands out real shards.

    Machines differ by ``spread`` in each shard and die at random times; shards are written one after the other.
    """
    rng = np.random.default_rng(seed)
    queue = ShardQueue(shards_of(job.pictures, shard_size=job.shard_size))
    names = [f"worker {i}" for i in range(count)]
    begin = start_seconds(count, machines)
    events: list[tuple[float, int, str, int, Shard | None]] = []  # time, order, what, worker, shard
    order = 0
    written = last_write = 0.0
    useful = 0.0
    idle: set[int] = set()
    losses: dict[int, int] = {}

    def push(when: float, what: str, worker: int, shard: Shard | None) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, what, worker, shard))

    def give(now: float, worker: int) -> None:
        shard = queue.take(names[worker])
        if shard is None:
            idle.add(worker)
            return
        takes = shard_seconds(job, machines, pictures=shard.count)
        if machines.spread:
            takes *= math.exp(rng.normal(0.0, machines.spread))
        dies = rng.exponential(machines.hours_between_failures * SECONDS_AN_HOUR)
        if dies < takes and losses.get(shard.index, 0) < MAX_LOSSES - 1:
            push(now + dies, "died", worker, shard)
        else:
            push(now + takes, "made", worker, shard)

    for worker in range(count):
        push(begin, "ready", worker, None)
    while not queue.is_done:
        now, _, what, worker, shard = heapq.heappop(events)
        if what == "died":
            assert shard is not None
            losses[shard.index] = losses.get(shard.index, 0) + 1
            queue.lost(shard, names[worker])
            push(now + machines.open_seconds, "ready", worker, None)
            for waiting in sorted(idle):
                idle.discard(waiting)
                give(now, waiting)
            continue
        if what == "made" and shard is not None and queue.finished(shard):
            useful += shard_seconds(job, machines, pictures=shard.count)
            written = max(written, now) + write_seconds(job, machines, pictures=shard.count)
            last_write = written
            # the machine that writes hands out, so the next shard waits for it
            now = written
        if not queue.is_done:
            give(now, worker)
    closed = forecast(job, machines, count=count)
    return dataclasses.replace(closed, seconds=last_write, busy=useful / (count * last_write))


def table(job: SamplingJob, machines: Machines, counts: Sequence[int], *, simulated: int) -> str:
    """Return a Markdown table, a row a number of machines; up to ``simulated`` of them are simulated too."""
    lines = [
        "| machines | time | simulated | pictures/h | start | busy | bound by | on the disk | moved |",
        "| --: | --: | --: | --: | --: | --: | :-- | --: | --: |",
    ]
    for count in counts:
        row = forecast(job, machines, count=count)
        again = simulate(job, machines, count=count).seconds if count <= simulated else None
        lines.append(
            f"| {count:,} | {_time(row.seconds)} | {'–' if again is None else _time(again)} | "
            f"{row.pictures_per_hour(job.pictures):,.0f} | {_time(row.start_seconds)} | {100 * row.busy:.0f} % | "
            f"{row.limit} | {row.disk_bytes / 1e9:,.1f} GB | {row.moved_bytes / 1e9:,.1f} GB |"
        )
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * SECONDS_AN_HOUR else f"{seconds / SECONDS_AN_HOUR:.1f} h"


def plot(job: SamplingJob, machines: Machines, path: Path) -> None:
    """Draw pictures an hour against machines, for three sizes of shards, and what the machines alone would give."""
    from trt_vqgan.extras import import_module

    import_module("trt_vqgan.benchmarks.scaling_plot").draw(job, machines, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of a job; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.scaling", description=__doc__)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--codes", type=int, default=256, help="of a picture")
    parser.add_argument("--png-bytes", type=float, default=80e3, help="of a picture's file; 0 for codes only")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--simulated", type=int, default=1000, help="up to so many machines are simulated too")
    parser.add_argument("--plot", type=file_argument, help="PNG")
    for field in dataclasses.fields(Machines):
        default = _MEASURED.get(field.name, field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=default)
    given = parser.parse_args(arguments)
    machines = Machines(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Machines)})
    job = SamplingJob(
        pictures=given.pictures, shard_size=given.shard_size, codes=given.codes, png_bytes=given.png_bytes
    )
    try:
        print(table(job, machines, given.machines, simulated=given.simulated), end="")
        print(f"\nwriting is busy all the time from {most_machines(job, machines):,.0f} machines on")
        if given.plot is not None:
            plot(job, machines, given.plot)
    except TrtVqganError as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        return 1
    return 0


_MEASURED = {"codes_per_second": 1150.0, "decode_seconds": 0.118, "hours_between_failures": 1000.0, "spread": 0.1}
"""Of two CPU cores: rows `step`, native int8, batch 8, and `decode`, native bf16, of docs/benchmarks/cpu.md; the last
two are assumptions."""


if __name__ == "__main__":
    sys.exit(main())
