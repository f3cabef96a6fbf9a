"""Runs the CUDA sources of kernels/csrc on a processor: compiled with g++ against the headers beside this file.

See README.md beside this file for how to write a kernel's test.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_vqgan.kernels.launch import Launch

_Scalar = TypeVar("_Scalar", bound=np.generic)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CSRC = ROOT / "kernels" / "csrc"

FLAGS = (
    "-O2",
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fPIC",
    "-g1",
    "-w",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
)
SANITIZER_FLAGS = (
    "-fsanitize=address,alignment,bounds",
    "-fno-sanitize-recover=alignment,bounds",
    "-fno-omit-frame-pointer",
)
SANITIZED_VARIABLE = "SHIM_SANITIZED"  # set in the child process that `run_sanitized` starts

DTYPES = {"P": "uint64", "f": "float32", "d": "float64", "i": "int32", "I": "uint32", "q": "int64", "Q": "uint64"}

_KERNEL = re.compile(
    r"cusim_kernel_marker\s+(?:void\s+)?(?:cusim_bounds_marker\(((?:[^()]|\([^()]*\))*)\)\s*)?(?:void\s+)?(\w+)\s*\("
)


class KernelError(Exception):
    """A kernel did what a GPU forbids; the message has file, line, thread and block."""


class ShimLibrary:
    """Compiled kernels.

    Attributes
    ----------
    bank_conflicts : int
        Extra passes of ldmatrix over shared memory in the last launch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bank_conflicts = 0
        self._library = ctypes.CDLL(str(path))
        self._library.cusim_name.restype = ctypes.c_char_p
        self._library.cusim_signature.restype = ctypes.c_char_p
        self.signatures: dict[str, str] = {}
        index = 0
        while (name := self._library.cusim_name(index)) is not None:
            self.signatures[name.decode()] = self._library.cusim_signature(index).decode()
            index += 1

    def place(self, values: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return `device_array` of ``values``: with `address`, the library is a KernelRunner of the package's cases."""
        return device_array(values)

    def address(self, array: NDArray[Any]) -> np.uint64:
        """Return `address` of ``array``."""
        return address(array)

    def launch(self, launch: Launch, *, seed: int = 0) -> None:
        """Run every block of ``launch`` to its end.

        Parameters
        ----------
        seed : 0 runs blocks and threads in order, any other number in an order of its own.

        Raises
        ------
        KernelError : what the kernel did wrong and where; or arguments that are not its parameters.
        """
        signature = self.signatures.get(launch.kernel)
        if signature is None:
            raise KernelError(f"{launch.kernel}: no such kernel; there are {', '.join(sorted(self.signatures))}")
        found = [str(argument.dtype) for argument in launch.arguments]
        wanted = [DTYPES[letter] for letter in signature]
        if found != wanted:
            raise KernelError(f"{launch.kernel}: arguments are {found}, its parameters {wanted}")
        values = [np.asarray(argument) for argument in launch.arguments]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*[value.ctypes.data for value in values])
        error = ctypes.create_string_buffer(2048)
        conflicts = ctypes.c_long(0)
        failed = self._library.cusim_launch(
            launch.kernel.encode(),
            (ctypes.c_uint * 3)(*launch.grid),
            (ctypes.c_uint * 3)(*launch.block),
            ctypes.c_size_t(launch.shared_bytes),
            pointers,
            ctypes.c_uint64(seed),
            ctypes.byref(conflicts),
            error,
            ctypes.c_size_t(len(error)),
        )
        self.bank_conflicts = conflicts.value
        if failed:
            raise KernelError(error.value.decode(errors="replace"))


def address(array: NDArray[np.generic]) -> np.uint64:
    """Return what a kernel takes as pointer to ``array`` (C-contiguous); the caller keeps the array alive."""
    assert array.flags.c_contiguous
    return np.uint64(array.ctypes.data)


def device_array(values: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return a C-contiguous copy in memory of its own: it begins at a multiple of 256 bytes, as CUDA allocates, and
    nothing that belongs to it lies behind its end, so that the address sanitizer sees the first byte too many."""
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    memory = ctypes.c_void_p()
    if libc.posix_memalign(ctypes.byref(memory), ctypes.c_size_t(256), ctypes.c_size_t(max(1, values.nbytes))):
        raise MemoryError(f"no memory for {values.nbytes} bytes")
    owner = (ctypes.c_char * values.nbytes).from_address(memory.value or 0)
    weakref.finalize(owner, libc.free, memory.value)
    array = np.frombuffer(owner, values.dtype).reshape(values.shape)
    array[...] = values
    return array


def is_sanitized() -> bool:
    """Return whether this process runs kernels under the address sanitizer."""
    return SANITIZED_VARIABLE in os.environ


def load(sources: Sequence[str | Path], *, sanitize: bool | None = None, defines: Sequence[str] = ()) -> ShimLibrary:
    """Return the kernels of ``sources``, compiled unless that was done before; skips the test where g++ is absent.

    Parameters
    ----------
    sources : names in kernels/csrc, or paths.
    sanitize : with the address sanitizer; None: in the child process of `run_sanitized` only, where alone it works.
    defines : as ``NAME`` or ``NAME=VALUE``, to plant faults.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not on this machine; it compiles the CUDA sources for the processor")
    paths = tuple((CSRC / source) if isinstance(source, str) else source for source in sources)
    return _load(compiler, paths, is_sanitized() if sanitize is None else sanitize, tuple(defines))


def load_with_fault(source: str, right: str, wrong: str) -> ShimLibrary:
    """Return the kernels of ``source`` in kernels/csrc with the only occurrence of ``right`` made ``wrong``."""
    text = (CSRC / source).read_text()
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times in {source}, wanted once"
    text = text.replace(right, wrong)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source
        path.write_text(text)
        return load([path])


@functools.cache
def _load(compiler: str, sources: tuple[Path, ...], sanitize: bool, defines: tuple[str, ...]) -> ShimLibrary:
    flags = [*FLAGS, *(SANITIZER_FLAGS if sanitize else ()), *(f"-D{define}" for define in defines)]
    include = [f"-I{HERE}", f"-I{CSRC}"]
    digest = hashlib.sha256(repr((flags, [source.name for source in sources], _version(compiler))).encode())
    headers = [*sorted(HERE.glob("*.h")), *sorted(CSRC.glob("*.cuh")), Path(__file__)]
    for path in (*sources, *headers):
        digest.update(path.read_bytes() + b"\0")
    if sources[0].parent == HERE:
        digest.update(str(HERE).encode())  # its messages name their file, which lies elsewhere in another clone
    folder = Path(tempfile.gettempdir()) / f"trt-vqgan-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest.hexdigest()[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            glue = []
            for index, source in enumerate(sources):
                scan = _run([compiler, *flags, *include, "-E", "-P", "-DCUSIM_SCAN", "-x", "c++", str(source)])
                path = Path(work) / f"glue{index}.cpp"
                path.write_text(_glue(source, scan, is_main=index == 0))
                glue.append(str(path))
            made = Path(work) / "kernels.so"
            _run([compiler, *flags, *include, "-shared", "-o", str(made), *glue])
            made.replace(library)
    return ShimLibrary(library)


def _glue(source: Path, preprocessed: str, *, is_main: bool) -> str:
    kernels = [(match[2], match[1]) for match in _KERNEL.finditer(preprocessed)]
    if not kernels:
        raise AssertionError(f"{source}: holds no __global__ function")
    lines = ["#define CUSIM_MAIN"] if is_main else []
    lines += [f'#include "{source}"', '#include "registry.h"']
    for name, bounds in kernels:
        bound = f"cusim::first_bound({bounds})" if bounds else "0"
        lines.append(f'static const bool added_{name} = cusim::add("{name}", {name}, {bound});')
    return "\n".join(lines) + "\n"


@functools.cache
def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stderr[-8000:]}")
    return done.stdout


def run_sanitized(test_file: str, *pytest_arguments: str) -> str:
    """Run tests of ``test_file`` in a child process whose kernels are compiled with the address sanitizer.

    Returns
    -------
    What pytest printed.

    Raises
    ------
    AssertionError : a test failed or the sanitizer stopped the child, with its report; or no test ran.
    """
    if is_sanitized():
        pytest.skip("this is the sanitized process")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not on this machine; it compiles the CUDA sources for the processor")
    runtime = Path(_run([compiler, "-print-file-name=libasan.so"]).strip())
    if not runtime.is_absolute():
        pytest.skip("g++ has no address sanitizer on this machine")
    environment = os.environ | {
        # libstdc++ too: the sanitizer wraps its __cxa_throw, which must be there when the process starts
        "LD_PRELOAD": f"{runtime.resolve()} {_run([compiler, '-print-file-name=libstdc++.so.6']).strip()}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        SANITIZED_VARIABLE: "1",
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-s", test_file]
    done = subprocess.run([*command, *pytest_arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
    return done.stdout
