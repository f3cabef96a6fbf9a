"""Pictures' codes, or prefills, by each runtime, each in a process of its own, in turns with torch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.arithmetic import PRECISIONS, prefill_operations, step_weight_bytes
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.parity import judge
from trt_vqgan.benchmarks.peers.contenders import BASELINE, BITS, CONTENDERS, Contender
from trt_vqgan.benchmarks.peers.drawing import start_tokens
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.benchmarks.peers.runtime_process import RuntimeFailedError, RuntimeProcess, Turn, prepare
from trt_vqgan.benchmarks.peers.sleeping import PAUSE_SECONDS, cpu_seconds, wait_until_asleep
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.errors import ShapeError
from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]

SAME_CODES_FP32 = 0.9
"""Least share of codes equal to torch's. Greedy codes of random weights part at the first near tie, for good, so other
arithmetic gets no limit: its share is told."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run found.

    Attributes
    ----------
    rows : of the runtimes that ran.
    left_out : reason by contender, with the batch where it ran in others.
    """

    rows: tuple[Row, ...]
    left_out: dict[str, str]


class _Run:
    """One model and its contenders, whose processes live for one group and batch at a time."""

    def __init__(
        self, spec: ModelSpec, name: str, context: Context, root: Path, pause: float, prefill: int | None
    ) -> None:
        self.left_out: dict[str, str] = {}
        self._spec, self._name, self._context, self._root, self._pause = spec, name, context, root, pause
        self._prefill = prefill  # tokens of a prefill, or None for pictures
        self._count = spec.num_codes if prefill is None else prefill
        self._never = 0  # known once torch has drawn
        self._wanted: dict[int, Int64Array] = {}

    def draw_baseline(self) -> None:
        """Draw torch's codes, which nothing is measured without."""
        folder = self._folder(BASELINE)
        for batch in self._context.batches:
            self._context.say(f"{self._name}: {BASELINE.name} draws what is wanted, batch {batch}")
            with RuntimeProcess(self._job(BASELINE, batch, folder)) as process:
                self._wanted[batch] = process.draw(batch, self._count).codes
        if self._prefill is not None:
            return
        seen = {int(code) for codes in self._wanted.values() for code in np.unique(codes)}
        seen |= {int(token) for token in start_tokens(max(self._context.batches))}
        free = set(range(self._spec.autoencoder.codebook_size)) - seen
        if not free:
            raise ShapeError(f"peers: found every code drawn by batches {self._context.batches}, wanted one that isn't")
        self._never = min(free)

    def group(self, bits: str, contenders: Sequence[Contender]) -> list[Row]:
        """Return the rows of the contenders of one precision."""
        folders = {contender: folder for contender in contenders if (folder := self._prepared(contender)) is not None}
        if hasattr(os, "sync"):
            os.sync()  # or the system writes the models to disk while others are measured
        rows: list[Row] = []
        for batch in self._context.batches:
            self._context.say(f"{self._name} {bits} batch {batch}")
            turns = self._turns(folders, batch)
            rows += self._rows(turns, bits, batch)
        for folder in folders.values():
            shutil.rmtree(folder)
        return rows

    def _prepared(self, contender: Contender) -> Path | None:
        if not contender.runtime.installed:
            self._leave_out(contender.name, "isn't installed")
            return None
        self._context.say(f"{self._name}: converting for {contender.name}")
        folder = self._folder(contender)
        try:
            prepare(self._job(contender, max(self._context.batches), folder))
        except RuntimeFailedError as error:
            self._leave_out(contender.name, str(error))
            shutil.rmtree(folder)
            return None
        return folder

    def _turns(self, folders: Mapping[Contender, Path], batch: int) -> dict[Contender, tuple[str, list[Turn], float]]:
        """Return runner, turns and what the others computed meanwhile, of torch and of those that lasted."""
        with contextlib.ExitStack() as stack:
            processes: dict[Contender, RuntimeProcess] = {}

            def drop(contender: Contender, reason: str) -> None:
                if contender == BASELINE:
                    raise RuntimeFailedError(f"peers: {contender.name}, batch {batch}: {reason}")
                processes.pop(contender).close()
                self._leave_out(f"{contender.name}, batch {batch}", reason)

            def all_asleep() -> None:
                numbers = {contender.name: process.pid for contender, process in processes.items()}
                awake = wait_until_asleep(numbers, pause=self._pause)
                for contender in [contender for contender in processes if contender.name in awake]:
                    drop(contender, "its threads don't sleep between turns")

            for contender in (BASELINE, *folders):
                job = self._job(contender, batch, folders.get(contender, self._root))
                try:
                    processes[contender] = stack.enter_context(RuntimeProcess(job))
                except RuntimeFailedError as error:
                    if contender == BASELINE:
                        raise
                    self._leave_out(f"{contender.name}, batch {batch}", str(error))
            turns: dict[Contender, list[Turn]] = {contender: [] for contender in processes}
            meanwhile = dict.fromkeys(processes, 0.0)
            order = list(processes)
            for number in range(-1, self._context.repeats):  # the first round is for warming up
                first = number % len(order)
                for contender in order[first:] + order[:first]:
                    all_asleep()
                    if contender not in processes:
                        continue
                    others = [process.pid for other, process in processes.items() if other != contender]
                    before = sum(map(cpu_seconds, others))
                    try:
                        turn = processes[contender].draw(batch, self._count)
                    except RuntimeFailedError as error:
                        drop(contender, str(error))
                        continue
                    if number >= 0:
                        turns[contender].append(turn)
                        meanwhile[contender] += sum(map(cpu_seconds, others)) - before
                if number >= 0:
                    all_asleep()
                    self._context.bandwidth.sample()
            return {
                contender: (process.runner, turns[contender], meanwhile[contender])
                for contender, process in processes.items()
            }

    def _rows(self, measured: Mapping[Contender, tuple[str, list[Turn], float]], bits: str, batch: int) -> list[Row]:
        read = max(self._context.bandwidth.samples[-self._context.repeats :])
        seconds = {contender: [turn.seconds for turn in turns] for contender, (_, turns, _) in measured.items()}
        rows = []
        for contender, (runner, turns, meanwhile) in measured.items():
            if contender == BASELINE and bits != BASELINE.bits:
                continue  # told in its own group
            parts = self._count if self._prefill is None else 1
            taken = latency([turn_seconds / parts for turn_seconds in seconds[contender]])
            same = float(np.mean([turn.codes == self._wanted[batch] for turn in turns]))
            limit = SAME_CODES_FP32 if bits == "fp32" and contender.runtime.exact else 0.0
            is_torch = contender == BASELINE
            rows.append(
                Row(
                    what="picture step" if self._prefill is None else f"prefill of {self._prefill}",
                    model=self._name,
                    runner=runner,
                    precision=contender.precision,
                    batch=batch,
                    latency=taken,
                    rates=self._rates(bits, batch, mean_seconds=taken.mean_ms * 1e-3, read=read),
                    speedup=None if is_torch else speedup(seconds[BASELINE], seconds[contender]),
                    parity=None if is_torch else judge("codes equal torch's, share", same, limit=limit, at_least=True),
                    facts={
                        "threads_busy": sum(turn.cpu_seconds for turn in turns) / sum(seconds[contender]),
                        "others_busy": meanwhile / sum(seconds[contender]),
                    },
                )
            )
        return rows

    def _rates(self, bits: str, batch: int, *, mean_seconds: float, read: float) -> dict[str, float]:
        transformer = self._spec.transformer
        assert transformer is not None
        if self._prefill is not None:
            operations = prefill_operations(transformer, batch=batch, tokens=self._prefill, rows=self._prefill)
            return {"tokens/s": batch * self._prefill / mean_seconds, "GFLOP/s": operations / mean_seconds / 1e9}
        rates = {"codes/s": batch / mean_seconds}
        if bits in PRECISIONS:
            rates["share of what this machine reads"] = step_weight_bytes(transformer, bits) / mean_seconds / read
        return rates

    def _job(self, contender: Contender, batch: int, folder: Path) -> Job:
        return Job(
            module=contender.runtime.module,
            spec=self._spec,
            precision=contender.precision,
            folder=folder,
            threads=self._context.threads,
            batch=batch,
            never=self._never,
            what="pictures" if self._prefill is None else "prefill",
        )

    def _folder(self, contender: Contender) -> Path:
        folder = self._root / "".join(letter if letter.isalnum() else "-" for letter in contender.name)
        folder.mkdir()
        return folder

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        self._context.say(f"left out: {name}: {reason}")


def measure(
    spec: ModelSpec,
    *,
    name: str,
    context: Context,
    bits: Sequence[str] = BITS,
    contenders: Sequence[Contender] = CONTENDERS,
    pause: float = PAUSE_SECONDS,
    prefill: int | None = None,
) -> Found:
    """Return a row a runtime, precision and batch: the mean of a step when whole pictures are drawn.

    A turn is one picture of each row, because not every runtime can stop in one and go on. Parity is the share of codes
    equal to torch's. With ``prefill`` a turn is a prefill, by the runtimes that can be given many tokens and asked for
    the logits of all. A runtime that isn't there, fails or crashes has no row, and a line among those left out.

    Parameters
    ----------
    bits : groups that are measured.
    contenders : beside torch.
    pause : seconds before each turn, see `wait_until_asleep`.
    prefill : its tokens, or None for pictures.

    Raises
    ------
    RuntimeFailedError : torch failed.
    """
    with tempfile.TemporaryDirectory(prefix="trt-vqgan-peers-") as folder:
        run = _Run(spec, name, context, Path(folder), pause, prefill)
        run.draw_baseline()
        rows: list[Row] = []
        for group in bits:
            rows += run.group(
                group,
                [each for each in contenders if each.bits == group and (prefill is None or each.runtime.prefills)],
            )
        return Found(tuple(rows), run.left_out)
