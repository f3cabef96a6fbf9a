"""compute-sanitizer over every kernel at small sizes: wild reads and writes, and races in shared memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.benchmarks.gpu_check.settings import Settings

TOOLS = ("memcheck", "racecheck")
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
FOUND_ERRORS = 77
SECONDS_EACH = 42


def run(records: Records, settings: Settings) -> None:
    """Run each tool."""
    program = next((found for place in PLACES if (found := shutil.which(place))), None)
    if program is None:
        records.skip("sanitizer", "compute-sanitizer is not on this machine")
        return
    for tool in TOOLS:
        with records.part(f"compute-sanitizer {tool}"):
            ok, detail = _sanitized(program, tool, settings)
            records.check(f"compute-sanitizer {tool}", ok, detail)


def _sanitized(program: str, tool: str, settings: Settings) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        path = Path(folder) / "records"
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS), "--print-limit", "5"]
        code = (
            "import sys; from pathlib import Path; from trt_vqgan.benchmarks.gpu_check import kernels_stage; "
            "from trt_vqgan.benchmarks.gpu_check.records import Records; "
            "from trt_vqgan.benchmarks.gpu_check.settings import Settings; "
            f"kernels_stage.run(Records(Path({str(path)!r}), ceilings={{}}), Settings(gpu={settings.gpu}), tiny=True)"
        )
        try:
            done = subprocess.run(
                [*command, sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS_EACH
            )
        except subprocess.TimeoutExpired:
            return False, f"took longer than {SECONDS_EACH} s; {len(read_records(path))} checks were done"
        found = read_records(path)
        wrong = [record["name"] for record in found if not record.get("ok", True)]
        if done.returncode or wrong or not found:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "=====" in line]
            told = " | ".join(line.strip("= ") for line in lines[-6:])
            return False, f"status {done.returncode}, {len(wrong)} of {len(found)} wrong: {told or json.dumps(wrong)}"[
                :600
            ]
        return True, f"{len(found)} checks"
