"""Generates pictures in a process of its own and says how long it took and how much memory it ever held.

``python -m trt_vqgan.benchmarks.fresh_process BUNDLE PICTURES THREADS`` prints one JSON object; `measure` runs it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

from trt_vqgan.errors import TrtVqganError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreshRun:
    """What one process did.

    Attributes
    ----------
    wall_seconds : from before its start until the pictures were there, as seen from outside.
    load_seconds : of `load`, hashing the bundle's files included.
    generate_seconds : of all pictures, one batch.
    peak_bytes : most memory that it ever held; None where the system doesn't say.
    """

    wall_seconds: float
    load_seconds: float
    generate_seconds: float
    peak_bytes: int | None


def measure(bundle: Path, *, pictures: int, threads: int) -> FreshRun:
    """Return what a new process needs to load a bundle and generate pictures, all in one batch.

    Raises
    ------
    TrtVqganError : the process failed.
    """
    command = [sys.executable, "-m", __name__, str(bundle), str(pictures), str(threads)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()  # comes when the pictures are there, before the process has cleaned up
        wall_seconds = time.perf_counter() - start
        errors = process.stderr.read()
    if process.returncode or not line:
        reason = errors.strip().splitlines()[-1] if errors.strip() else f"exit status {process.returncode}"
        raise TrtVqganError(f"bench: the process that generates {pictures} pictures of {bundle} failed: {reason}")
    return FreshRun(wall_seconds=wall_seconds, **json.loads(line))


def peak_bytes() -> int | None:
    """Return the most memory that this process ever held, in bytes."""
    try:
        # not getrusage, whose maximum a process inherits from the one that started it
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main(arguments: list[str]) -> None:
    """Generate as the command line says and print what it took."""
    from trt_vqgan.benchmarks.sequences import random_conditions
    from trt_vqgan.runtime.pipeline import load

    bundle, pictures, threads = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    start = time.perf_counter()
    pipeline = load(bundle, threads=threads)
    loaded = time.perf_counter()
    conditions = random_conditions(pipeline.spec, pictures)
    pipeline.generate(condition_codes=conditions, seed=0, batch_size=pictures)
    done = time.perf_counter()
    found = {"load_seconds": loaded - start, "generate_seconds": done - loaded, "peak_bytes": peak_bytes()}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
