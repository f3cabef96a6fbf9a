"""How many threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from trt_vqgan.errors import ShapeError

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def available_threads() -> int:
    """Return the processors in this process's affinity mask, lowered to its cgroup's quota (rounded up); at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(count, quota)) if quota else max(1, count)


def resolve_threads(threads: int | None) -> int:
    """Return ``threads`` where it is given, else `available_threads`; raise ShapeError where it is below 1."""
    if threads is None:
        return available_threads()
    if threads < 1:
        raise ShapeError(f"threads: found {threads}, wanted at least 1")
    return threads


def _cgroup_quota() -> int | None:
    """Return the whole processors that the cgroup's quota allows, or None where there is no quota."""
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
            return None if quota == "max" else math.ceil(int(quota) / int(period))
        quota_us, period_us = (int(path.read_text()) for path in _CGROUP_V1)
        return math.ceil(quota_us / period_us) if quota_us > 0 else None
    except (OSError, ValueError):
        return None
