"""``python -m trt_vqgan.benchmarks.peers --json peers.json``: pictures' codes by other runtimes, in turn with ours.

CTranslate2, OpenVINO and llama.cpp (llama-cpp-python and gguf) are measured where they are installed; which are not is
said. All get the same random weights and draw the likeliest codes, one after the other.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arithmetic import step_weight_bytes
from trt_vqgan.benchmarks.context import Context, Say
from trt_vqgan.benchmarks.decode_steps import EngineSteps
from trt_vqgan.benchmarks.engines import open_engines
from trt_vqgan.benchmarks.interleaving import in_turn
from trt_vqgan.benchmarks.parity import judge
from trt_vqgan.benchmarks.peers.drawing import Drawer, SteppingDrawer
from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth
from trt_vqgan.benchmarks.recording import record
from trt_vqgan.benchmarks.report import Report, to_json
from trt_vqgan.benchmarks.rows import TORCH, Row
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.benchmarks.subjects import RandomSubject
from trt_vqgan.benchmarks.tables import heading, text_table
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.benchmarks.torch_baseline import TorchReference, TorchSteps
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]

BITS = {
    "fp32": ("float32", "f32"),
    "int8": ("int8", "q8_0"),
    "int4": ("q4_0",),
    "bf16": ("bfloat16",),
}
"""What the others call the precisions that are compared with each other."""

SAME_CODES = {"float32": 0.9}
"""Least share of codes equal to torch's. Greedy codes of random weights part at the first near tie, for good, so other
arithmetic gets no limit: its share is told."""

PEERS = {"ctranslate2": "CTranslate2", "openvino": "OpenVINO", "llama_cpp": "llama.cpp"}


class _EngineFromNothing(EngineSteps):
    """Steps of the runtime, from an empty cache."""

    def start(self, prefix: Int64Array) -> None:
        self._stepper = self._engine.stepper(self._engine.new_cache(batch=len(prefix), capacity=self._capacity))


class _TorchFromNothing(TorchSteps):
    """Steps of torch, from an empty cache."""

    def start(self, prefix: Int64Array) -> None:
        self._past = None


def open_drawers(
    subject: RandomSubject, context: Context, folder: Path, *, peers: Sequence[str], never: Callable[[], int]
) -> Iterator[tuple[str, Drawer]]:
    """Yield (precision, drawer): torch, our engines, then those of ``peers`` that are installed.

    Parameters
    ----------
    folder : where models of the others go.
    peers : module names, some of `PEERS`.
    never : returns a code that isn't drawn; asked when it is needed.
    """
    spec, weights = subject.spec.transformer, subject.weights
    assert spec is not None
    assert weights is not None
    reference = TorchReference(subject.spec, weights, own_weights=True, threads=context.threads)
    yield "fp32", SteppingDrawer(TORCH, "fp32", _TorchFromNothing(reference))
    for engine in open_engines(subject, context, what="peers"):
        steps = _EngineFromNothing(engine.engine, capacity=spec.max_seq_len)
        yield engine.precision, SteppingDrawer(engine.runner, engine.precision, steps)
    for name in peers:
        if importlib.util.find_spec(name) is None:
            context.say(f"left out: {PEERS[name]} isn't installed")
            continue
        context.say(f"converting for {PEERS[name]}")
        if name == "ctranslate2":
            from trt_vqgan.benchmarks.peers.ctranslate2_peer import CTranslate2Drawer

            for bits, precision in (("fp32", "float32"), ("int8", "int8")):
                yield (
                    bits,
                    CTranslate2Drawer(
                        spec, weights, folder, precision=precision, threads=context.threads, never=never()
                    ),
                )
        elif name == "openvino":
            from trt_vqgan.benchmarks.peers.openvino_peer import OpenVinoSteps

            for bits, precision in (("fp32", "float32"), ("bf16", "bfloat16")):
                found = OpenVinoSteps(spec, weights, precision=precision, threads=context.threads)
                yield bits, SteppingDrawer(f"OpenVINO {found.version}", precision, found)
        else:
            from trt_vqgan.benchmarks.peers.llama_peer import LlamaSteps

            most = max(context.batches)
            for bits, precision in (("fp32", "f32"), ("int8", "q8_0"), ("int4", "q4_0")):
                llama = LlamaSteps(spec, weights, folder, precision=precision, threads=context.threads, batch=most)
                yield bits, SteppingDrawer(f"llama-cpp-python {llama.version}", precision, llama)


def measure(
    spec: ModelSpec, *, name: str, context: Context, precisions: Sequence[str], peers: Sequence[str] = tuple(PEERS)
) -> list[Row]:
    """Return a row a runtime, precision and batch: the mean of a step when whole pictures are drawn.

    Runtimes of one precision take turns with torch; parity is the share of codes equal to torch's.
    """
    subject = RandomSubject(spec, name=name, precisions=tuple(precisions))
    count = spec.num_codes
    rows: list[Row] = []
    wanted: dict[int, Int64Array] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="trt-vqgan-peers-") as folder:

            def never() -> int:
                drawn = set(wanted[context.batches[0]].flatten().tolist())
                return next(code for code in range(1, spec.autoencoder.codebook_size) if code not in drawn)

            drawers: dict[str, list[Drawer]] = {}
            for bits, drawer in open_drawers(subject, context, Path(folder), peers=peers, never=never):
                if not wanted:
                    wanted = {batch: drawer.draw(batch, count) for batch in context.batches}
                drawers.setdefault(bits, []).append(drawer)
            torch = drawers["fp32"][0]
            for bits, group in drawers.items():
                contenders = [torch, *(drawer for drawer in group if drawer is not torch)]
                for batch in context.batches:
                    context.say(f"{name} {bits} batch {batch}")
                    rows += _rows(contenders, batch, wanted[batch], spec, name, context, own=bits == "fp32")
            drawers.clear()
            gc.collect()  # files are mapped until their models are gone
    finally:
        subject.close()
    return rows


def _rows(
    contenders: Sequence[Drawer],
    batch: int,
    wanted: Int64Array,
    spec: ModelSpec,
    name: str,
    context: Context,
    *,
    own: bool,
) -> Iterator[Row]:
    count = wanted.shape[1]
    found: dict[str, Int64Array] = {}

    def draw(key: str, drawer: Drawer) -> None:
        found[key] = drawer.draw(batch, count)

    work = {
        f"{drawer.runner} {drawer.precision}": (
            lambda drawer=drawer: draw(f"{drawer.runner} {drawer.precision}", drawer)
        )
        for drawer in contenders
    }
    first = len(context.bandwidth.samples)
    seconds = in_turn(work, rounds=context.repeats, after_round=lambda done: context.bandwidth.sample())
    read = max(context.bandwidth.samples[first:])
    torch_key = f"{TORCH} fp32"
    assert spec.transformer is not None
    for drawer in contenders:
        key = f"{drawer.runner} {drawer.precision}"
        is_torch = key == torch_key
        if is_torch and not own:
            continue  # told among fp32
        measured = latency([taken / count for taken in seconds[key]])
        same = float((found[key] == wanted).mean())
        weights = _weight_bytes(spec, drawer.precision)
        rates = {"codes/s": batch / (measured.mean_ms * 1e-3)}
        if weights is not None:
            rates["share of what this machine reads"] = weights / (measured.mean_ms * 1e-3) / read
        yield Row(
            what="picture step",
            model=name,
            runner=drawer.runner,
            precision=drawer.precision,
            batch=batch,
            latency=measured,
            rates=rates,
            speedup=None if is_torch else speedup(seconds[torch_key], seconds[key]),
            parity=None
            if is_torch
            else judge("codes equal torch's, share", same, limit=SAME_CODES.get(drawer.precision, 0.0), at_least=True),
        )


def _weight_bytes(spec: ModelSpec, precision: str) -> int | None:
    assert spec.transformer is not None
    for bits, names in BITS.items():
        if bits != "bf16" and precision in (bits, *names):
            return step_weight_bytes(spec.transformer, bits)
    return None


def run(
    *,
    shape: tuple[int, int],
    batches: Sequence[int],
    precisions: Sequence[str],
    repeats: int,
    threads: int | None,
    say: Say,
) -> Report:
    """Measure all runtimes at one shape and return the report."""
    count = resolve_threads(threads)
    layers, width = shape

    def rows(bandwidth: ReadBandwidth) -> list[Row]:
        context = Context(batches=tuple(batches), threads=count, repeats=repeats, bandwidth=bandwidth, say=say)
        spec = model_of_shape(layers, width=width)
        return measure(spec, name=f"{layers}x{width}", context=context, precisions=precisions)

    return record(
        rows,
        command=" ".join(["python -m trt_vqgan.benchmarks.peers", *sys.argv[1:]]),
        threads=count,
        settings={"repeats": repeats, "batches": list(batches)},
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write the report."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.peers", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--shape", default="12x768", metavar="LAYERSxWIDTH")
    parser.add_argument("--batch", type=int, action="append", help="rows at once; repeatable")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    layers, _, width = options.shape.partition("x")
    report = run(
        shape=(int(layers), int(width)),
        batches=options.batch or (1, 8),
        precisions=options.precision or ("fp32", "int8", "int4"),
        repeats=options.repeats,
        threads=options.threads,
        say=lambda line: print(f"peers: {line}", file=sys.stderr, flush=True),
    )
    write_bytes(options.json, to_json(report).encode())
    print(heading(report))
    print(text_table(report.rows), end="")


if __name__ == "__main__":
    main()
