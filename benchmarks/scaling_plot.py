"""The plot of docs/scaling.md."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from matplotlib.figure import Figure

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.scaling import SECONDS_AN_HOUR, Machines, SamplingJob, forecast, shard_seconds

COUNTS = [round(10 ** (i / 8)) for i in range(8 * 4 + 5)]
DPI = 110


def draw(job: SamplingJob, machines: Machines, path: Path) -> None:
    """Draw pictures an hour against machines into the PNG ``path``."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    ideal = job.shard_size / shard_seconds(job, machines) * SECONDS_AN_HOUR
    axes.plot(COUNTS, [count * ideal for count in COUNTS], color="#999999", linewidth=1, label="machines alone")
    million = dataclasses.replace(job, pictures=20 * job.pictures)
    for shown, style in ((job, "-"), (million, "--")):
        for size, colour in ((8, "#2e8b3d"), (64, "#1f5fa8"), (512, "#c2571a")):
            sized = dataclasses.replace(shown, shard_size=size)
            rates = [forecast(sized, machines, count=n).pictures_per_hour(sized.pictures) for n in COUNTS]
            label = f"{shown.pictures:,} pictures in shards of {size}"
            axes.plot(COUNTS, rates, style, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="machines", ylabel="pictures an hour, start included")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
