"""Which machine and which versions gave the numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import trt_vqgan

PACKAGES = ("numpy", "onnxruntime", "onnx", "torch", "Pillow")


def describe_machine(*, threads: int) -> dict[str, Any]:
    """Return processor, threads, memory and system, ready for JSON; what the system doesn't say is None."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "ram_bytes": _ram_bytes(),
        "system": platform.platform(),
    }


def describe_versions() -> dict[str, str | None]:
    """Return the versions of this package, of Python and of the packages that ran; None for those not installed."""
    versions: dict[str, str | None] = {"trt-vqgan": trt_vqgan.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> str | None:
    """Return the commit of the source tree that runs, with "+changes" where it has some; None outside a git tree."""
    folder = Path(trt_vqgan.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changes else commit


def load_average() -> float | None:
    """Return the processes that wanted to run in the last minute, or None where the system doesn't say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # git isn't installed, or refuses the folder
        return None
    return run.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
