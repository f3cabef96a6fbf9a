"""Waits until processes sleep, so that none of them takes a processor from the next one's turn."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

PAUSE_SECONDS = 0.25
"""Threads of Intel's OpenMP spin for 0.2 s after their last piece of work, longer than those of the others."""

WATCH_SECONDS = 0.05
PATIENCE_SECONDS = 5.0


def cpu_seconds(process: int) -> float:
    """Return what all threads of a process have computed, in ticks of the system; 0 where it doesn't say or is gone."""
    try:
        # the name, which may hold blanks, ends with the last bracket
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_asleep(processes: Mapping[str, int], *, pause: float = PAUSE_SECONDS) -> list[str]:
    """Pause, go on when no process computes any more, and return the names of those that still do after 5 s.

    Parameters
    ----------
    processes : numbers by name.
    pause : seconds before they are looked at.
    """
    time.sleep(pause)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        time.sleep(WATCH_SECONDS)
        # one tick may be what it did before the watch began
        one_tick = 1.5 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.0
        awake = [name for name, process in processes.items() if cpu_seconds(process) - before[name] > one_tick]
        if not awake or time.monotonic() > until:
            return awake
