"""The C functions of kernels/cpu/library.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int


class Sizes(ctypes.Structure):
    """``cpu::Sizes``."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("vocabulary", "positions", "layers", "heads", "width"))


class Table(ctypes.Structure):
    """``cpu::Table``."""

    _fields_ = tuple((name, _POINTER) for name in ("values", "codes", "scales"))


class Stored(ctypes.Structure):
    """``cpu::StoredMatrix``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("outputs", "inputs", "bits", "block")),
        *((name, _POINTER) for name in ("weights", "scales")),
    )


class Run(ctypes.Structure):
    """``cpu::Run``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("batch", "tokens", "unmasked", "wanted")),
        *((name, _POINTER) for name in ("ids", "starts", "indices", "keys", "values")),
        ("capacity", ctypes.c_int64),
        ("cache_rows", ctypes.c_int64),
        ("number_bytes", ctypes.c_int64),
        ("logits", _POINTER),
    )


def open_library(path: Path) -> ctypes.CDLL:
    """Return the library at ``path`` with its functions declared; calls let other Python threads run."""
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("cpu_open", _POINTER, [ctypes.POINTER(Sizes), _INT, ctypes.c_char_p]),
        ("cpu_close", None, [_POINTER]),
        ("cpu_instructions", ctypes.c_char_p, [_POINTER]),
        ("cpu_packed_bytes", ctypes.c_uint64, [_INT] * 4),
        ("cpu_reserve", _INT, [_POINTER, ctypes.c_uint64]),
        ("cpu_pack", _INT, [_POINTER, _INT, ctypes.POINTER(Stored), _POINTER]),
        ("cpu_set_norm", None, [_POINTER, _INT, _POINTER, _POINTER]),
        ("cpu_set_table", None, [_POINTER, _INT, ctypes.POINTER(Table)]),
        ("cpu_run", _INT, [_POINTER, ctypes.POINTER(Run)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
