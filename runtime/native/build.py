"""Compiles kernels/cpu into a shared library, once for each version of its sources, into the user's cache folder.

The library's name holds a hash of the sources, the options and the machine, and it is renamed into place when it is
whole: so any number of processes may build or load at once, and an old library is never taken for a new one.
``python -m trt_vqgan.runtime.native.build`` builds it ahead.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.runtime.threads import available_threads

SOURCES = Path(__file__).resolve().parents[2] / "kernels" / "cpu"
CACHE_VARIABLE = "TRT_VQGAN_CACHE"
COMPILERS = ("c++", "g++", "clang++")
SLOW_SECONDS = 2.0
"""A build that takes longer says so while it runs."""

_OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-psabi")
# GCC 12 warns of uninitialised values inside its own header of AVX-512
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-Wno-maybe-uninitialized")
_KERNELS: dict[str, tuple[str, ...]] = {
    "kPlain": (),
    "kAvx2": ("-mavx2", "-mfma", "-mf16c", "-DCPU_AVX2"),
    "kAvx512": (*_AVX512, "-DCPU_AVX512"),
}
_OTHERS = ("library", "packing", "thread_pool", "transformer")

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Return the folder of what this package keeps for a user: ``$TRT_VQGAN_CACHE``, or the system's usual place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "trt-vqgan"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-vqgan"


def find_library() -> Path | None:
    """Return the library of these sources where it has been built, else None; builds nothing."""
    path = _library_path()
    return path if path.is_file() else None


def built_library(*, say: Say | None = None) -> Path:
    """Return the library of these sources, built now if it wasn't.

    Parameters
    ----------
    say : called with a line where building takes more than two seconds; by default it goes to standard error.

    Raises
    ------
    BackendUnavailableError : there is no C++ compiler, or it fails; says what to install.
    """
    path = _library_path()
    if path.is_file():
        return path
    compiler = find_compiler()
    if compiler is None:
        raise BackendUnavailableError(
            f"native backend: no C++ compiler on this machine (looked for {', '.join(COMPILERS)}); install one (Debian "
            "and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or use "
            "--backend onnxruntime"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as folder:
            made = _compile(compiler, Path(folder), say or (lambda line: print(line, file=sys.stderr, flush=True)))
            made.replace(path)
    except OSError as error:
        raise BackendUnavailableError(
            f"native backend: {path.parent} can't be written ({error}); name another folder in ${CACHE_VARIABLE}"
        ) from None
    return path


def find_compiler() -> str | None:
    """Return the path of the C++ compiler that is used here, or None."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def _library_path() -> Path:
    digest = hashlib.sha256(repr((_OPTIONS, _KERNELS, platform.machine(), sys.platform)).encode())
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in (".cpp", ".hpp"):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return cache_folder() / f"transformer-{digest.hexdigest()[:16]}.so"


def _compile(compiler: str, folder: Path, say: Say) -> Path:
    """Return the library, compiled inside ``folder``."""
    tables = _KERNELS if platform.machine() in ("x86_64", "AMD64") else {"kPlain": ()}
    jobs = [(f"{name}.o", "kernels.cpp", (*options, f"-DCPU_TABLE={name}")) for name, options in tables.items()]
    jobs += [(f"{name}.o", f"{name}.cpp", ()) for name in _OTHERS]
    start = time.perf_counter()
    told = False

    def compile_one(job: tuple[str, str, tuple[str, ...]]) -> None:
        target, source, options = job
        _run([compiler, *_OPTIONS, *options, "-c", str(SOURCES / source), "-o", str(folder / target)])

    with ThreadPoolExecutor(available_threads()) as pool:
        for done in [pool.submit(compile_one, job) for job in jobs]:
            while not told and not done.done():
                if time.perf_counter() - start > SLOW_SECONDS:
                    say(f"trt-vqgan: compiling the CPU kernels with {compiler}, once; this takes some seconds …")
                    told = True
                time.sleep(0.02)
            done.result()
    library = folder / "transformer.so"
    _run([compiler, "-shared", "-pthread", *(str(folder / job[0]) for job in jobs), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BackendUnavailableError(
            f"native backend: {command[0]} can't compile the CPU kernels ({errors[0] if errors else done.returncode}); "
            "a compiler of C++17 is needed (GCC 9, Clang 10 or later), or use --backend onnxruntime"
        )


def main() -> int:
    """Build the library and print its path; return the exit status."""
    try:
        print(built_library())
    except BackendUnavailableError as error:
        print(f"trt-vqgan: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
