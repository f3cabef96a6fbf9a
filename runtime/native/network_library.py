"""The C functions of kernels/cpu/network_library.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int

KINDS = {"convolve": 0, "attend": 1, "shrink": 2, "repeat": 3}
MODES = {"same": 0, "halve": 1, "double": 2}


class ConvSizes(ctypes.Structure):
    """``cpu::ConvSizes``."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("outputs", "inputs", "side", "mode"))


class NetworkStep(ctypes.Structure):
    """``cpu::Step``."""

    _fields_ = tuple(
        (name, ctypes.c_int32) for name in ("kind", "read", "out", "conv", "norm", "swish", "add", "key", "value")
    )


def open_network_library(path: Path) -> ctypes.CDLL:
    """Return the library at ``path`` with its functions declared; calls let other Python threads run."""
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("network_open", _POINTER, [_INT, _INT, ctypes.c_char_p]),
        ("network_close", None, [_POINTER]),
        ("network_instructions", ctypes.c_char_p, [_POINTER]),
        ("network_best", ctypes.c_char_p, [_INT]),
        ("network_add_conv", _INT, [_POINTER, ctypes.POINTER(ConvSizes), _POINTER, _POINTER]),
        ("network_add_norm", _INT, [_POINTER, _INT, _POINTER, _POINTER]),
        ("network_add_step", _INT, [_POINTER, ctypes.POINTER(NetworkStep)]),
        ("network_run_bytes", ctypes.c_uint64, [_POINTER, _INT, _INT, _INT]),
        ("network_run", _INT, [_POINTER, _POINTER, _INT, _INT, _INT, _POINTER]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def best_instructions(library: ctypes.CDLL, *, bf16: bool) -> str:
    """Return the instruction set that convolutions take here; "" where there is none for bf16."""
    name: bytes | None = library.network_best(bf16)
    return name.decode() if name is not None else ""
