"""``python -m trt_vqgan.benchmarks.serving``: codes a second of a server against the number of its clients.

Server and clients share the machine's processors. A single client asks for one picture at a time, which is what a
server without batching does for everybody; the others join its running batch. Rounds over all numbers of clients are
repeated, and the best of each is kept, as other processes only take away. Some codes of every run are compared with
those of the same pictures made alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arguments import file_argument
from trt_vqgan.benchmarks.machine import describe_machine, describe_versions, git_commit, load_average
from trt_vqgan.benchmarks.serving.clients import Load, ask_together, check_codes, load_of
from trt_vqgan.benchmarks.serving.plot import plot_png
from trt_vqgan.benchmarks.serving.server_process import ServerProcess
from trt_vqgan.errors import TrtVqganError
from trt_vqgan.runtime.pipeline import load
from trt_vqgan.runtime.threads import available_threads

CLIENTS = (1, 2, 4, 8, 16, 32)
PICTURE_CLIENTS = (1, 16)
CHECKED = 3  # answers of each run that are made again alone


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.serving", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="a class model [default: the demo]")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each run [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--threads", type=int, nargs="+", help="of servers [default: all processors, and one less]")
    parser.add_argument("--json", type=file_argument, metavar="FILE")
    parser.add_argument(
        "--plot", type=file_argument, metavar="PNG", help="needs matplotlib: pip install 'trt-vqgan[plots]'"
    )
    options = parser.parse_args(arguments)
    try:
        report = measure(
            options.bundle, options.backend, options.clients, options.seconds, options.rounds, options.threads
        )
        if options.json is not None:
            write_bytes(options.json, json.dumps(report, indent=1).encode() + b"\n")
        if options.plot is not None:
            write_bytes(options.plot, plot_png(report))
    except TrtVqganError as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    print(table(report))
    return 0


def measure(
    bundle: Path | None,
    backend: str,
    clients: Sequence[int],
    seconds: float,
    rounds: int,
    threads: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return a report, JSON-ready."""
    available = available_threads()
    servers = threads or sorted({max(1, available - 1), available})
    asked_for = [(number, False) for number in clients] + [(n, True) for n in PICTURE_CLIENTS if n in clients]
    best: dict[tuple[int, int, bool], Load] = {}
    checked, said = 0, []
    load_before = load_average()
    rows = max(2, *clients)
    with load(bundle, backend=backend) as pipeline:
        condition = pipeline.spec.condition
        classes = 1 if condition is None else condition.num_classes
        for count in servers:
            options = ("--backend", backend, "--rows", str(rows), "--threads", str(count))
            with ServerProcess(bundle, *options) as server:
                said.append(server.said.rpartition(" on ")[0])
                ask_together(server.port, clients=2, seconds=0.3, pictures=True, classes=classes, seed=1)  # warms up
                for turn in range(rounds):
                    for number, pictures in asked_for:
                        asked, total = ask_together(
                            server.port, clients=number, seconds=seconds, pictures=pictures, classes=classes,
                            seed=10**6 * (turn + 1),
                        )  # fmt: skip
                        checked += check_codes(pipeline, asked, samples=CHECKED)
                        found = load_of(asked, total, clients=number, threads=count, pictures=pictures)
                        run = count, number, pictures
                        if run not in best or found.codes_per_s > best[run].codes_per_s:
                            best[run] = found
    return {
        "command": "python -m trt_vqgan.benchmarks.serving",
        "commit": git_commit(),
        "machine": describe_machine(threads=available),
        "load_before": load_before,
        "versions": describe_versions(),
        "servers": said,
        "server_rows": rows,
        "seconds": seconds,
        "rounds": rounds,
        "codes_checked_of_pictures": checked,
        "rows": [dataclasses.asdict(found) for found in best.values()],
    }


def table(report: dict[str, Any]) -> str:
    """Return a report as a table in Markdown."""
    one = {
        (row["threads"], row["pictures"]): row["codes_per_s"] for row in reversed(report["rows"]) if row["clients"] == 1
    }
    lines = [
        "| threads | answers | clients | codes/s | × one at a time | p50 ms | p99 ms | requests |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        alone = one.get((row["threads"], row["pictures"]))
        times = f"{row['codes_per_s'] / alone:.2f}" if alone else ""
        what = "pictures" if row["pictures"] else "codes"
        lines.append(
            f"| {row['threads']} | {what} | {row['clients']} | {row['codes_per_s']:.0f} | {times} | "
            f"{row['p50_ms']:.0f} | {row['p99_ms']:.0f} | {row['answers']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
