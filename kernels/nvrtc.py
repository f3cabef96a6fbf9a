"""NVRTC, CUDA's compiler as a library, through ctypes: for machines without nvcc."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_TOOLKIT = Path("/usr/local/cuda")


class Nvrtc:
    """A loaded NVRTC.

    Parameters
    ----------
    library : with NVRTC's functions.
    include : folders with CUDA's headers.
    """

    def __init__(self, library: ctypes.CDLL, *, include: Sequence[Path]) -> None:
        self._library = library
        self._include = tuple(include)
        library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        """As ``13.0``."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, text: str, *, name: str, options: Sequence[str]) -> tuple[bytes | None, str]:
        """Return machine code, or None where ``text`` was refused, and what the compiler printed.

        Parameters
        ----------
        text : CUDA C++.
        name : stands in messages for the file.
        options : with one ``--gpu-architecture=sm_…``.
        """
        program = ctypes.c_void_p()
        status = self._library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
        if status:
            return None, self._message(status)
        try:
            given = [*options, *(f"-I{folder}" for folder in self._include)]
            array = (ctypes.c_char_p * len(given))(*[option.encode() for option in given])
            status = self._library.nvrtcCompileProgram(program, len(given), array)
            printed = self._bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if status:
                return None, printed or self._message(status)
            return self._bytes(program, "CUBIN"), printed
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw[: size.value]

    def _message(self, status: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(status)
        return text.decode(errors="replace")


def find_nvrtc() -> Nvrtc | None:
    """Return NVRTC of NVIDIA's Python packages, of the CUDA toolkit or of the system, with headers; None without."""
    packages = _package_folders()
    include = [
        folder
        for folder in (*(package / "include" for package in packages), _TOOLKIT / "include")
        if (folder / "cuda_fp16.h").is_file()
    ]
    if not include:
        return None
    places = [
        folder / name for name in _NAMES for folder in (*(package / "lib" for package in packages), _TOOLKIT / "lib64")
    ]
    for place in (*(str(place) for place in places if place.is_file()), *_NAMES):
        try:
            return Nvrtc(ctypes.CDLL(place), include=include[:1])
        except OSError:  # not there, or for another system: the next may do
            continue
    return None


def _package_folders() -> list[Path]:
    """Return the folders of CUDA's libraries inside Python's packages: nvidia/cu13, nvidia/cuda_nvrtc, …"""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [folder for root in roots for folder in sorted(Path(root).iterdir()) if folder.is_dir()]
