"""What two pipelines of one thread each make while one makes half of it: what the interpreter lock costs.

``python -m trt_vqgan.benchmarks.concurrency [--bundle FOLDER] [--backend native,onnxruntime] [--batch 1,8]`` prints a
markdown table, and ends with status 1 where a pipeline draws other codes beside another one than alone. A run makes the
same pictures in each pipeline, from start to decoded pixels; runs of one pipeline and of two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.benchmarks.interleaving import in_turn
from trt_vqgan.errors import ParityError
from trt_vqgan.runtime.pipeline import Pipeline

Int64Array = npt.NDArray[np.int64]

PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One backend and batch size.

    Attributes
    ----------
    alone_s, beside_s : of each round, seconds of one pipeline by itself, and of two at once until both are done.
    processors : that two pipelines kept busy, of 2, in the mean.
    """

    backend: str
    batch_size: int
    alone_s: tuple[float, ...]
    beside_s: tuple[float, ...]
    processors: float

    @property
    def speedup(self) -> float:
        """Pictures a second of two pipelines over those of one, the median of the rounds."""
        return statistics.median(2 * alone / beside for alone, beside in zip(self.alone_s, self.beside_s, strict=True))


def measure(pipelines: Sequence[Pipeline], *, batch_size: int, pictures: int = PICTURES, rounds: int = 5) -> Row:
    """Return the row of two pipelines of one thread each.

    Raises
    ------
    ParityError : the codes of a pipeline beside another one aren't those that it draws alone.
    """
    wanted = pipelines[0].generate(n=pictures, seed=0, batch_size=batch_size).codes
    busy: list[float] = []

    def run(chosen: Sequence[Pipeline]) -> None:
        found: list[Int64Array] = []

        def work(pipeline: Pipeline) -> None:
            found.append(pipeline.generate(n=pictures, seed=0, batch_size=batch_size).codes)

        threads = [threading.Thread(target=work, args=(pipeline,)) for pipeline in chosen]
        start, processors = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(chosen) == 2:
            busy.append((time.process_time() - processors) / (time.perf_counter() - start))
        if len(found) != len(chosen) or not all(np.array_equal(codes, wanted) for codes in found):
            raise ParityError(f"{chosen[0].backend}: other codes beside another pipeline than alone")

    seconds = in_turn({"alone": lambda: run(pipelines[:1]), "beside": lambda: run(pipelines)}, rounds=rounds)
    return Row(
        backend=pipelines[0].backend,
        batch_size=batch_size,
        alone_s=tuple(seconds["alone"]),
        beside_s=tuple(seconds["beside"]),
        processors=statistics.mean(busy),
    )


def table(rows: Sequence[Row], *, pictures: int = PICTURES) -> list[str]:
    """Return the lines of the markdown table."""
    lines = [
        f"| backend | pictures at once | one pipeline, {pictures} pictures | two, {2 * pictures} pictures | speedup "
        "(range) | processors busy |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [2 * alone / beside for alone, beside in zip(row.alone_s, row.beside_s, strict=True)]
        lines.append(
            f"| {row.backend} | {row.batch_size} | {statistics.median(row.alone_s):.2f} s "
            f"| {statistics.median(row.beside_s):.2f} s | {row.speedup:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {row.processors:.2f} of 2 |"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.concurrency", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="a model with a transformer; the demo's class model by default")
    parser.add_argument("--backend", default="native,onnxruntime", help="backends (native,onnxruntime)")
    parser.add_argument("--batch", default="1,8", help="pictures at once (1,8)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind (5)")
    options = parser.parse_args(arguments)
    rows = []
    for backend in options.backend.split(","):
        with (
            trt_vqgan.load(options.bundle, backend=backend, threads=1) as first,
            trt_vqgan.load(options.bundle, backend=backend, threads=1) as second,
        ):
            rows += [
                measure([first, second], batch_size=int(b), rounds=options.rounds) for b in options.batch.split(",")
            ]
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
