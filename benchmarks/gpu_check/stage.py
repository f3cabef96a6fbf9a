"""The stages, and how one runs: in a process of its own, for a limited time."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trt_vqgan.benchmarks.gpu_check.records import read_records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the check.

    Attributes
    ----------
    name : of the module in this package whose ``run`` does it.
    seconds : limit.
    required : without it nothing is checked, so that leaving it out is a failure.
    """

    name: str
    seconds: float
    required: bool = False


STAGES = (
    Stage(name="device", seconds=30, required=True),
    Stage(name="ceilings", seconds=60),
    Stage(name="kernels", seconds=90, required=True),
    Stage(name="sanitizer", seconds=90),
    Stage(name="goldens", seconds=60),
    Stage(name="pictures", seconds=30),
    Stage(name="kernel_times", seconds=90),
    Stage(name="picture_times", seconds=40),
    Stage(name="step_times", seconds=150),
    Stage(name="capture", seconds=45),
    Stage(name="golden_executors", seconds=90),
)
"""In order: what all need first, what other packages are needed for last. The limits add up to more than the ten
minutes of the whole run, which ends the last ones early where all take theirs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage wrote, and how it ended: ``failure`` is empty where it ended well."""

    records: tuple[dict[str, Any], ...]
    failure: str
    seconds: float


def run_stage(
    stage: Stage, arguments: Sequence[str], *, seconds: float | None = None, module: str | None = None
) -> Outcome:
    """Run a stage to its end, or kill it and all that it started when its time is up.

    Parameters
    ----------
    arguments : further ones for the process, as `child` takes them.
    seconds : limit in place of the stage's.
    module : run in place of `child`.
    """
    limit = stage.seconds if seconds is None else min(seconds, stage.seconds)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        records, errors = Path(folder) / "records", Path(folder) / "errors"
        program = module or "trt_vqgan.benchmarks.gpu_check.child"
        command = [sys.executable, "-m", program, stage.name, str(records), *arguments]
        with errors.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
            try:
                status = process.wait(timeout=limit)
                failure = "" if status == 0 else _ended(status)
            except subprocess.TimeoutExpired:
                failure = f"took longer than {limit:.0f} s and was ended"
            finally:
                _kill_group(process)
        told = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if failure and told:
            failure += f"; it said: {told[-1][:300]}"
        return Outcome(records=tuple(read_records(records)), failure=failure, seconds=time.monotonic() - begin)


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and of its own children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
