"""Compiles kernels/csrc into images that a CUDA driver loads, once for each version of the sources.

Images are kept in a folder whose name holds a hash of the sources, the options and the architectures; it is renamed
into place when it is whole, so any number of processes may build or load at once.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.kernels.compiling import Say, run_jobs, source_hash
from trt_vqgan.kernels.nvrtc import Nvrtc, find_nvrtc

SOURCES = Path(__file__).resolve().parent / "csrc"

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""What a full build has machine code for; others from 9.0 on run its PTX."""

_OPTIONS = ("-std=c++17", "-O3")
# Architectures share intermediate code where that costs no registers: it saves half of the time. nvcc 13.0: code for
# sm_120 from compute_90 spills in sample_codes_16384; from compute_100, nearest_code takes 240 registers on sm_100.
_INTERMEDIATE = (80, 90, 120)
_PORTABLE = 90  # intermediate code for GPUs that a build has no machine code for
_USUAL_NVCC = "/usr/local/cuda/bin/nvcc"

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True, kw_only=True)
class KernelUsage:
    """What one kernel takes on one architecture: registers a thread, spilled and stack bytes a thread."""

    kernel: str
    architecture: int
    registers: int
    spill_bytes: int
    stack_bytes: int


@dataclass(frozen=True, kw_only=True)
class KernelImages:
    """Compiled kernels.

    Attributes
    ----------
    images : one fatbin or cubin a source file, all to be loaded.
    architectures : with machine code.
    compiler : what made them.
    usage : of every kernel on every architecture.
    """

    images: tuple[bytes, ...]
    architectures: tuple[int, ...]
    compiler: str
    usage: tuple[KernelUsage, ...]


def kernel_images(folder: Path, *, architecture: int, say: Say | None = None) -> KernelImages:
    """Return kernels that run on ``architecture``: a full build kept in ``folder``, or built now for it alone.

    Parameters
    ----------
    folder : where builds are kept.
    architecture : compute capability as one number, 90 for 9.0.
    say : called with a line where building takes more than two seconds; by default it goes to standard error.

    Raises
    ------
    BackendUnavailableError : below compute capability 8.0; or neither nvcc nor NVRTC is there.
    BuildError : the compiler refused a source, or ``folder`` can't be written.
    """
    if architecture < min(ARCHITECTURES):
        raise BackendUnavailableError(
            f"CUDA kernels: this GPU has compute capability {architecture // 10}.{architecture % 10}, wanted 8.0 "
            "(Ampere) or newer; use --backend onnxruntime"
        )
    same = [known for known in ARCHITECTURES if known <= architecture and known // 10 == architecture // 10]
    if found := _read(_place(folder, ARCHITECTURES, "nvcc")):
        return found
    if nvcc := find_nvcc():
        return _kept(folder, (max(same, default=_PORTABLE),), "nvcc", _NvccCompiler(nvcc), say)
    if found := _read(_place(folder, (architecture,), "nvrtc")):
        return found
    if library := find_nvrtc():
        return _kept(folder, (architecture,), "nvrtc", _NvrtcCompiler(library), say)
    raise BackendUnavailableError(
        "CUDA kernels: there is neither nvcc nor NVRTC on this machine; `pip install nvidia-cuda-nvrtc "
        "nvidia-cuda-runtime nvidia-cuda-crt` installs NVRTC and its headers, or install CUDA's toolkit, 12.8 or later"
    )


def build_kernels(
    folder: Path, *, architectures: Sequence[int] = ARCHITECTURES, say: Say | None = None
) -> KernelImages:
    """Return kernels for all ``architectures``, kept in ``folder`` or built now with nvcc.

    Raises
    ------
    BackendUnavailableError : nvcc is not there.
    BuildError : as in `kernel_images`.
    """
    wanted = tuple(sorted(architectures))
    if found := _read(_place(folder, wanted, "nvcc")):
        return found
    nvcc = find_nvcc()
    if nvcc is None:
        raise BackendUnavailableError(
            f"CUDA kernels: nvcc is neither on PATH nor at {_USUAL_NVCC}; install the CUDA toolkit, 12.8 or later"
        )
    return _kept(folder, wanted, "nvcc", _NvccCompiler(nvcc), say)


def find_nvcc() -> str | None:
    """Return the path of CUDA's compiler, or None."""
    return shutil.which("nvcc") or shutil.which(_USUAL_NVCC)


def resource_usage(compiler_output: str) -> tuple[KernelUsage, ...]:
    """Return what ``nvcc --resource-usage`` printed, in its order."""
    found: list[KernelUsage] = []
    entry: re.Match[str] | None = None
    stack = spills = 0
    for line in compiler_output.splitlines():
        if match := _ENTRY.search(line):
            entry, stack, spills = match, 0, 0
        elif match := _SPILLS.search(line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif (match := _REGISTERS.search(line)) and entry:
            found.append(
                KernelUsage(
                    kernel=entry[1],
                    architecture=int(entry[2]),
                    registers=int(match[1]),
                    spill_bytes=spills,
                    stack_bytes=stack,
                )
            )
            entry = None
    return tuple(found)


class _NvccCompiler:
    suffix = ".fatbin"

    def __init__(self, path: str) -> None:
        self._path = path
        self.name = "nvcc"

    def version(self) -> str:
        printed = subprocess.run([self._path, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.search(r"release ([\d.]+)", printed)
        return f"nvcc {match[1] if match else 'of an unknown version'}"

    def compile(self, source: Path, target: Path, architectures: Sequence[int]) -> str:
        """Write ``target`` and return what the compiler printed."""
        options: list[str] = []
        for intermediate, following in zip(_INTERMEDIATE, (*_INTERMEDIATE[1:], 10_000), strict=True):
            codes = [f"sm_{known}" for known in architectures if intermediate <= known < following]
            if intermediate == _PORTABLE and _PORTABLE in architectures:
                codes.append(f"compute_{_PORTABLE}")
            if codes:
                options += ["-gencode", f"arch=compute_{intermediate},code=[{','.join(codes)}]"]
        command = [self._path, *_OPTIONS, "--resource-usage", *options, "-fatbin", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        printed = done.stdout + done.stderr
        if done.returncode:
            raise _refused(source, self.version(), printed)
        return printed


class _NvrtcCompiler:
    suffix = ".cubin"

    def __init__(self, library: Nvrtc) -> None:
        self._library = library
        self.name = "NVRTC"

    def version(self) -> str:
        return f"NVRTC {self._library.version}"

    def compile(self, source: Path, target: Path, architectures: Sequence[int]) -> str:
        """Write ``target`` and return what the compiler printed."""
        (architecture,) = architectures
        options = ["-std=c++17", f"--gpu-architecture=sm_{architecture}", f"-I{SOURCES}", "--ptxas-options=-v"]
        image, printed = self._library.compile(source.read_text(), name=source.name, options=options)
        if image is None:
            raise _refused(source, self.version(), printed)
        target.write_bytes(image)
        return printed


def _refused(source: Path, version: str, printed: str) -> BuildError:
    lines = printed.strip().splitlines()
    errors = [line for line in lines if "error" in line or "fatal" in line] or lines
    return BuildError(
        f"CUDA kernels: {version} can't compile {source.name}:\n" + "\n".join(errors[:12] or ["(it printed nothing)"])
    )


def _place(folder: Path, architectures: Sequence[int], compiler: str) -> Path:
    options = (_OPTIONS, _INTERMEDIATE, tuple(architectures), compiler)
    return folder / f"cuda-kernels-{source_hash(SOURCES, ('.cu', '.cuh'), options=options)}"


def _read(place: Path) -> KernelImages | None:
    try:
        facts = json.loads((place / "build.json").read_text())
        return KernelImages(
            images=tuple((place / name).read_bytes() for name in facts["files"]),
            architectures=tuple(facts["architectures"]),
            compiler=facts["compiler"],
            usage=tuple(KernelUsage(**entry) for entry in facts["usage"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kept(
    folder: Path,
    architectures: tuple[int, ...],
    kind: str,
    compiler: _NvccCompiler | _NvrtcCompiler,
    say: Say | None,
) -> KernelImages:
    """Return what is kept for these sources, built first where nothing is."""
    place = _place(folder, architectures, kind)
    if found := _read(place):
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
            _compile(Path(work), architectures, compiler, say)
            try:
                Path(work).rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first, with the same images
                    raise
            else:
                Path(work).mkdir()  # for TemporaryDirectory to remove
    except OSError as error:
        raise BuildError(f"CUDA kernels: {folder} can't be written ({error}); choose another cache folder") from None
    built = _read(place)
    if built is None:
        raise BuildError(f"CUDA kernels: {place} was removed while it was built; build again")
    return built


def _compile(
    work: Path, architectures: tuple[int, ...], compiler: _NvccCompiler | _NvrtcCompiler, say: Say | None
) -> None:
    """Fill ``work`` with images and their description."""
    sources = sorted(SOURCES.glob("*.cu"), key=lambda path: -path.stat().st_size)  # long ones first
    targets = [work / (source.stem + compiler.suffix) for source in sources]
    names = ", ".join(f"sm_{known}" for known in architectures)
    printed = run_jobs(
        [
            functools.partial(compiler.compile, source, target, architectures)
            for source, target in zip(sources, targets, strict=True)
        ],
        threads=os.cpu_count() or 1,
        slow_line=f"trt-vqgan: compiling the CUDA kernels with {compiler.name} for {names}, once …",
        say=say,
    )
    usage = [asdict(entry) for text in printed for entry in resource_usage(text)]
    facts = {
        "compiler": compiler.version(),
        "architectures": architectures,
        "files": [target.name for target in targets],
        "usage": usage,
    }
    (work / "build.json").write_text(json.dumps(facts, indent=1))
