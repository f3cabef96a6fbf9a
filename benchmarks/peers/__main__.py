"""``python -m trt_vqgan.benchmarks.peers --json peers.json``: pictures' codes by other runtimes, in turn with ours.

With ``--prefill 256`` a prefill of 256 tokens by torch, OpenVINO and ours.

CTranslate2, OpenVINO (with NNCF in 8 and 4 bits), onnxruntime-genai and llama.cpp (llama-cpp-python and gguf) are
measured where they are installed; which are not, or fail, is said. All get the same random weights and draw the
likeliest codes, one after the other, each runtime and precision in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arguments import count_argument, file_argument, shape_argument
from trt_vqgan.benchmarks.context import Context, Say
from trt_vqgan.benchmarks.peers.contenders import BITS, package_versions
from trt_vqgan.benchmarks.peers.measuring import measure
from trt_vqgan.benchmarks.peers.sleeping import PAUSE_SECONDS
from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth
from trt_vqgan.benchmarks.recording import record
from trt_vqgan.benchmarks.report import Report, to_json
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.shapes import model_of_shape, with_positions
from trt_vqgan.benchmarks.tables import heading, text_table
from trt_vqgan.errors import TrtVqganError
from trt_vqgan.runtime.threads import resolve_threads


def run(
    *,
    shape: tuple[int, int],
    batches: Sequence[int],
    bits: Sequence[str],
    repeats: int,
    threads: int | None,
    prefill: int | None,
    command: str,
    say: Say,
) -> Report:
    """Measure all runtimes at one shape and return the report."""
    count = resolve_threads(threads)
    layers, width = shape
    left_out: dict[str, str] = {}

    def rows(bandwidth: ReadBandwidth) -> tuple[Row, ...]:
        context = Context(batches=tuple(batches), threads=count, repeats=repeats, bandwidth=bandwidth, say=say)
        model = model_of_shape(layers, width=width)
        if prefill is not None:
            model = with_positions(model, prefill)
        found = measure(model, name=f"{layers}x{width}", context=context, bits=bits, prefill=prefill)
        left_out.update(found.left_out)
        return found.rows

    settings = {"repeats": repeats, "batches": list(batches), "prefill": prefill, "pause_s": PAUSE_SECONDS}
    settings |= {"left_out": left_out}
    report = record(rows, command=command, threads=count, settings=settings)
    return dataclasses.replace(report, versions=report.versions | package_versions())


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the report."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.peers", description=__doc__)
    parser.add_argument("--json", type=file_argument, required=True)
    parser.add_argument("--shape", type=shape_argument, default=(12, 768), metavar="LAYERSxWIDTH")
    parser.add_argument("--batch", type=count_argument, action="append", help="rows at once; repeatable")
    parser.add_argument("--precision", action="append", choices=BITS, help="a group that is measured; repeatable")
    parser.add_argument("--prefill", type=count_argument, metavar="TOKENS", help="instead of pictures")
    parser.add_argument("--repeats", type=count_argument, default=5)
    parser.add_argument("--threads", type=count_argument)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    try:
        _measure(options, " ".join([parser.prog, *given]))
    except TrtVqganError as error:
        sys.exit(f"peers: error: {error}")


def _measure(options: argparse.Namespace, command: str) -> None:
    report = run(
        shape=options.shape,
        batches=options.batch or (1, 8),
        bits=options.precision or BITS,
        repeats=options.repeats,
        threads=options.threads,
        prefill=options.prefill,
        # where the report lies on this machine is nobody's business
        command=command.replace(str(options.json), options.json.name),
        say=lambda line: print(f"peers: {line}", file=sys.stderr, flush=True),
    )
    write_bytes(options.json, to_json(report).encode())
    print(heading(report))
    print(text_table(report.rows), end="")


if __name__ == "__main__":
    main()
