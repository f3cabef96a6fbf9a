"""Compiles kernels/cpu into a shared library, once for each version of its sources, into the user's cache folder.

The library's name holds a hash of the sources, the options and the machine, and it is renamed into place when it is
whole: so any number of processes may build or load at once, and an old library is never taken for a new one.
``python -m trt_vqgan.runtime.native.build`` builds it ahead, and a wheel built where there is a compiler has it inside
(hatch_build.py).
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trt_vqgan.cache_folder import CACHE_VARIABLE, cache_folder
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.kernels.compiling import Say, run_jobs, source_hash
from trt_vqgan.runtime.threads import available_threads

SOURCES = Path(__file__).resolve().parents[2] / "kernels" / "cpu"
COMPILERS = ("c++", "g++", "clang++")
PACKAGED = Path(__file__).resolve().parent
"""Where a wheel has its library."""

KEPT_LIBRARIES = 4
"""In the cache folder: of versions that take turns, such as those of several environments."""

_OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-psabi")
# GCC 12 warns of uninitialised values inside its own header of AVX-512; Clang has no such warning
_NO_WARNING = ("-Wno-unknown-warning-option", "-Wno-maybe-uninitialized")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", *_NO_WARNING)
_OF_EACH_SET = ("kernels", "conv_fp32", "sampler")
_Tables = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
_PLAIN: _Tables = {"kPlain": ((), _OF_EACH_SET)}
# each set's options, and the sources that gain by it: on ARM the sampler's plain C++ becomes NEON without being told
_X86: _Tables = {
    **_PLAIN,
    "kAvx2": (("-mavx2", "-mfma", "-mf16c", "-DCPU_AVX2"), _OF_EACH_SET),
    "kAvx512": ((*_AVX512, "-DCPU_AVX512"), _OF_EACH_SET),
}
_ARM: _Tables = {
    **_PLAIN,
    "kNeon": (("-DCPU_NEON",), ("kernels", "conv_fp32")),
    "kNeonDot": (("-march=armv8.2-a+dotprod", "-DCPU_NEON", "-DCPU_NEON_DOT"), ("kernels",)),
}
# without these GCC 12 stores sums in every round of a loop, beside keeping them in registers; Clang lacks the second
_SUMS_IN_REGISTERS = ("-fno-tree-vectorize", "-fno-tree-loop-ivcanon")
_MACHINES = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM, "ARM64": _ARM}
_AMX = ("-mamx-tile", "-mamx-int8", "-mamx-bf16", "-mavx512bf16")  # GCC 11, Clang 12
_OTHERS = (
    *("conv_choice", "conv_packing", "instructions", "library", "network", "network_library"),
    *("packing", "sampler_library", "thread_pool", "transformer"),
)


def find_library() -> Path | None:
    """Return the library of these sources where it has been built, else None; builds nothing."""
    name = library_name()
    return next((path for folder in (PACKAGED, cache_folder()) if (path := folder / name).is_file()), None)


def built_library(*, say: Say | None = None) -> Path:
    """Return the library of these sources, built now if it wasn't.

    Parameters
    ----------
    say : called with a line where building takes more than two seconds; by default it goes to standard error.

    Raises
    ------
    BackendUnavailableError : there is no C++ compiler, or it fails; says what to install.
    """
    found = find_library()
    if found is not None:
        return found
    path = cache_folder() / library_name()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as folder:
            compile_library(Path(folder), say=say).replace(path)
    except OSError as error:
        raise BackendUnavailableError(
            f"native backend: {path.parent} can't be written ({error}); name another folder in ${CACHE_VARIABLE}"
        ) from None
    _remove_superseded(path)
    return path


def compile_library(folder: Path, *, say: Say | None = None) -> Path:
    """Return the library, compiled inside ``folder``, whose objects stay there too; errors as of `built_library`."""
    compiler = find_compiler()
    if compiler is None:
        raise BackendUnavailableError(
            f"native backend: no C++ compiler on this machine (looked for {', '.join(COMPILERS)}); install one (Debian "
            "and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or use "
            "--backend onnxruntime"
        )
    return _compile(compiler, folder, say)


def find_compiler() -> str | None:
    """Return the path of the C++ compiler that is used here, or None."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def library_name() -> str:
    """Return the name of the library of these sources, options and machine."""
    options = (_OPTIONS, _X86, _ARM, _SUMS_IN_REGISTERS, _AMX, _OTHERS, platform.machine(), sys.platform)
    version = source_hash(SOURCES, (".cpp", ".hpp"), options=options)
    return f"transformer-{version}.so"


def _remove_superseded(newest: Path) -> None:
    """Remove all but the newest libraries beside the one that was just built; a process that runs one keeps it."""
    others = [path for path in newest.parent.glob("transformer-*.so") if path != newest]
    for path in sorted(others, key=_built_at, reverse=True)[KEPT_LIBRARIES - 1 :]:
        path.unlink(missing_ok=True)


def _built_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process removes them too
        return 0.0


def compile_objects(compiler: str, folder: Path, *, machine: str, say: Say | None = None) -> list[Path]:
    """Return the library's objects for a ``machine`` (as `platform.machine` names it), compiled inside ``folder``.

    Raises
    ------
    BackendUnavailableError : ``compiler`` can't compile them.
    """
    tables = _MACHINES.get(machine, _PLAIN)
    if tables is _ARM and _knows(compiler, _SUMS_IN_REGISTERS):
        own = {name: ((*_SUMS_IN_REGISTERS, *options), sources) for name, (options, sources) in tables.items()}
        tables = {**own, **_PLAIN}  # whose loops are for the compiler to make vectors of
    objects = [
        (f"{source}-{name}.o", f"{source}.cpp", (*options, f"-DCPU_TABLE={name}"))
        for name, (options, sources) in tables.items()
        for source in sources
    ]
    tiles = tables is _X86 and sys.platform == "linux" and _knows(compiler, _AMX)
    objects += [(f"{name}.o", f"{name}.cpp", ("-DCPU_AMX",) if tiles else ()) for name in _OTHERS]
    if tiles:
        objects += [(f"{name}.o", f"{name}.cpp", (*_X86["kAvx512"][0], *_AMX)) for name in ("amx", "conv_amx")]
    commands = [
        [compiler, *_OPTIONS, *options, "-c", str(SOURCES / source), "-o", str(folder / target)]
        for target, source, options in objects
    ]
    run_jobs(
        [functools.partial(_run, command) for command in commands],
        threads=available_threads(),
        slow_line=f"trt-vqgan: compiling the CPU kernels with {compiler}, once; this takes some seconds …",
        say=say,
    )
    return [folder / target for target, _, _ in objects]


def _compile(compiler: str, folder: Path, say: Say | None) -> Path:
    objects = compile_objects(compiler, folder, machine=platform.machine(), say=say)
    library = folder / library_name()
    _run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(library)])
    return library


def _knows(compiler: str, options: tuple[str, ...]) -> bool:
    command = [compiler, *options, "-fsyntax-only", "-x", "c++", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


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
