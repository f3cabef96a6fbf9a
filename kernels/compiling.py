"""What compiling kernels for the CPU and for GPUs has in common: the version of sources, and jobs that take a while."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

SLOW_SECONDS = 2.0
"""A build that takes longer says so while it runs."""

Say = Callable[[str], None]
Result = TypeVar("Result")


def source_hash(folder: Path, suffixes: tuple[str, ...], *, options: object) -> str:
    """Return 16 hexadecimal digits of a folder's sources and of the options that they are compiled with."""
    digest = hashlib.sha256(repr(options).encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in suffixes:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def run_jobs(
    jobs: Sequence[Callable[[], Result]], *, threads: int, slow_line: str, say: Say | None = None
) -> list[Result]:
    """Return what the jobs return, in their order; the first that fails ends those that haven't begun.

    Parameters
    ----------
    threads : jobs at once.
    slow_line : told once where all of it takes more than two seconds.
    say : called with it; by default it goes to standard error.
    """
    start, told = time.perf_counter(), False
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for future in running:
                while not told and not future.done():
                    if time.perf_counter() - start > SLOW_SECONDS:
                        (say or _to_standard_error)(slow_line)
                        told = True
                    time.sleep(0.02)
                future.result()
        finally:
            for future in running:
                future.cancel()
        return [future.result() for future in running]


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
