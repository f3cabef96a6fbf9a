"""What libraries answer when they are asked to load or to be captured; a refusal is an answer, not a failure."""

from __future__ import annotations

import subprocess
import sys

from trt_vqgan.benchmarks.gpu_check.capture_probes import PROBES, UNAVAILABLE
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings

SECONDS_EACH = 14


def run(records: Records, settings: Settings) -> None:
    """Ask each in a process of its own."""
    for name in PROBES:
        ask(records, name, settings)


def ask(records: Records, name: str, settings: Settings) -> None:
    """Write one probe's answer, or that it was skipped."""
    module = "trt_vqgan.benchmarks.gpu_check.capture_probes"
    command = [sys.executable, "-m", module, name, str(settings.gpu), settings.engine]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_EACH, check=False)
    except subprocess.TimeoutExpired:
        records.facts("answers", **{name: f"no answer within {SECONDS_EACH} s"})
        return
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    told = lines[-1][:500] if lines else "nothing"
    if done.returncode == UNAVAILABLE:
        records.skip(name, told)
        return
    said = {0: "yes", 1: "no"}.get(done.returncode, f"the process ended with status {done.returncode}")
    records.facts("answers", **{name: f"{said}: {told}"})
