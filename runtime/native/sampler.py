"""Draws codes through kernels/cpu: the same codes and errors as `trt_vqgan.runtime.sampler`, without the interpreter.

The definition, bit by bit, is `trt_vqgan.kernels.reference.sample_codes`.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.kernels.reference.sample_codes import exponent_rate
from trt_vqgan.runtime.sampler import MAX_CODEBOOK_SIZE, Sampling, check_inputs, row_maximum

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

_ALL_DRAWN, _NO_MEMORY = -1, -2  # what the library returns, else a row from which nothing can be drawn


class DrawTask(ctypes.Structure):
    """``cpu::DrawTask``."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "codes", "row_stride")),
        ("random", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("random_stride", "top_k")),
        *((name, ctypes.c_float) for name in ("rate", "top_p")),
        ("greedy", ctypes.c_int32),
        ("drawn", ctypes.c_void_p),
    )


class NativeSampler:
    """Draws codes in C++. Safe to call from several threads, which don't wait for each other.

    Parameters
    ----------
    library : the shared library of `trt_vqgan.runtime.native.build`.
    instructions : "amx", "avx512", "avx2", "neondot", "neon" or "plain"; by default the best that the processor has.
        The codes are the same.

    Raises
    ------
    BackendUnavailableError : the processor lacks the instructions.
    """

    def __init__(self, library: Path, *, instructions: str = "") -> None:
        functions = ctypes.CDLL(str(library))  # calls let other Python threads run
        functions.sampler_choose.restype, functions.sampler_choose.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        self._draw = functions.sampler_draw
        self._draw.restype, self._draw.argtypes = ctypes.c_int64, [ctypes.c_void_p, ctypes.POINTER(DrawTask)]
        chosen = functions.sampler_choose(instructions.encode())
        if not chosen:
            raise BackendUnavailableError(
                f"native backend: this processor has no {instructions or 'known'} instructions; use --backend "
                "onnxruntime"
            )
        self._chosen = ctypes.c_void_p(chosen)

    def draw_codes(self, logits: FloatArray, sampling: Sampling, *, random: UInt64Array) -> Int64Array:
        """Return one code for each row of logits, int64 (B,), as `trt_vqgan.runtime.sampler.draw_codes`.

        Parameters
        ----------
        logits : float32 (B, V), of any strides; -inf excludes a code.
        sampling : how to choose.
        random : uint64 (B,), uniform; not used where the choice is greedy.

        Raises
        ------
        ShapeError
            As `trt_vqgan.runtime.sampler.draw_codes`.
        """
        check_inputs(logits, random)
        rows, codes = logits.shape
        if not 0 < codes <= MAX_CODEBOOK_SIZE:
            row_maximum(logits)  # raises
        if logits.strides[1] != logits.itemsize or not logits.flags.aligned:
            logits = logits.copy()
        if not random.flags.aligned:
            random = random.copy()
        rate, top_k, top_p, greedy = _settings(sampling)
        drawn = np.empty(rows, dtype=np.int64)
        task = DrawTask(
            _address(logits),
            rows,
            codes,
            logits.strides[0] // logits.itemsize,
            _address(random),
            random.strides[0] // random.itemsize,
            codes if top_k is None or top_k > codes else top_k,
            rate,
            top_p,
            greedy,
            _address(drawn),
        )
        found = self._draw(self._chosen, ctypes.byref(task))
        if found == _NO_MEMORY:
            raise MemoryError(f"native backend: no memory to draw from {codes} codes")
        if found != _ALL_DRAWN:
            row_maximum(logits)  # raises, and says what it is
            raise AssertionError(f"row {found} was refused")
        return drawn


def _address(array: npt.NDArray[np.generic]) -> int:
    address: int = array.__array_interface__["data"][0]  # a tenth of what array.ctypes takes
    return address


@functools.lru_cache(maxsize=256)
def _settings(sampling: Sampling) -> tuple[float, int | None, float, bool]:
    """Return rate, top-k, top-p and whether it is greedy, as `DrawTask` takes them."""
    top_k = None if sampling.top_k is None else int(sampling.top_k)
    return float(exponent_rate(sampling.temperature)), top_k, float(np.float32(sampling.top_p)), bool(sampling.greedy)
