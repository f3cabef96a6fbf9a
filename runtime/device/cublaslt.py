"""Matrix products by cuBLASLt, through ctypes: fp16 in, fp16 or fp32 out, summed in fp32."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_vqgan.errors import BackendUnavailableError, CudaError, ShapeError
from trt_vqgan.runtime.device.arrays import DeviceArray

if TYPE_CHECKING:
    from trt_vqgan.runtime.device.interface import Device

WORKSPACE_BYTES = 32 << 20  # what the vendor advises for Hopper
ALIGNMENT_BYTES = 16  # of every matrix; parts of arrays needn't have more

# Values of cublasLt.h and library_types.h, which have been the same since CUDA 11.
_REAL_32F, _REAL_16F = 0, 2
_COMPUTE_32F = 68
_TRANSPOSED = 1
_DESC_TRANSA = 3
_PREFERENCE_WORKSPACE = 1
_PREFERENCE_ALIGNMENTS = (5, 6, 7, 8)
_NOT_SUPPORTED = 15
_STATUS = {
    1: "not initialised",
    3: "out of memory",
    7: "invalid value",
    8: "wrong architecture",
    13: "execution failed",
}

_TYPES = {np.dtype(np.float16): _REAL_16F, np.dtype(np.float32): _REAL_32F}
LIBRARIES = ("cublasLt64_13.dll", "cublasLt64_12.dll") if sys.platform == "win32" else (
    "libcublasLt.so.13",
    "libcublasLt.so.12",
)  # fmt: skip


class _Algorithm(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint64 * 8)]


class _Found(ctypes.Structure):
    _fields_ = [
        ("algorithm", _Algorithm),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    ]


@dataclasses.dataclass(frozen=True)
class _Product:
    """What one shape of product needs: a description, three layouts and the chosen algorithm."""

    description: ctypes.c_void_p
    weight: ctypes.c_void_p
    x: ctypes.c_void_p
    out: ctypes.c_void_p
    algorithm: _Algorithm


def load_cublaslt() -> CublasLt:
    """Return cuBLASLt, from the system or from NVIDIA's packages beside this one.

    Raises
    ------
    BackendUnavailableError : it isn't on this machine.
    """
    for name in LIBRARIES:
        for place in (name, *_packaged(name)):
            try:
                return CublasLt(ctypes.CDLL(str(place)))
            except OSError:
                continue
    raise BackendUnavailableError(
        f"cuBLASLt isn't on this machine ({' or '.join(LIBRARIES)}); `pip install nvidia-cublas` installs it"
    )


def _packaged(name: str) -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return [path for folder in folders for path in sorted(Path(folder).glob(f"*/lib/{name}"))]


class CublasLt:
    """cuBLASLt with one handle and one workspace, for one stream.

    Parameters
    ----------
    library : the library, as ctypes loads it.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        self._workspace: DeviceArray | None = None
        self._products: dict[tuple[Any, ...], _Product] = {}

    def open(self, device: Device) -> None:
        """Create the handle and the workspace."""
        self._call("cublasLtCreate", ctypes.byref(self._handle))
        self._workspace = device.allocate((WORKSPACE_BYTES,), np.uint8)

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool, stream: int) -> None:
        """Write ``x`` fp16 (M, K) times ``weight`` fp16 (N, K) transposed to ``out`` fp16 or fp32 (M, N).

        Raises
        ------
        ShapeError : shapes that don't fit together, or other dtypes.
        CudaError : cuBLASLt reported a failure.
        """
        rows, inner = x.shape
        columns = weight.shape[0]
        half = np.dtype(np.float16)
        if weight.shape != (columns, inner) or out.shape != (rows, columns) or out.dtype not in _TYPES:
            raise ShapeError(f"gemm: found {x.shape} times {weight.shape} into {out.dtype} {out.shape}")
        if x.dtype != half or weight.dtype != half:
            raise ShapeError(f"gemm: found {x.dtype} times {weight.dtype}, wanted float16")
        key = (rows, columns, inner, out.dtype)
        product = self._products.get(key)
        if product is None:
            product = self._products[key] = self._prepare(rows, columns, inner, _TYPES[out.dtype])
        assert self._workspace is not None
        one, beta = ctypes.c_float(1), ctypes.c_float(1 if accumulate else 0)
        self._call(
            "cublasLtMatmul",
            self._handle,
            product.description,
            ctypes.byref(one),
            _address(weight),
            product.weight,
            _address(x),
            product.x,
            ctypes.byref(beta),
            _address(out),
            product.out,
            _address(out),
            product.out,
            ctypes.byref(product.algorithm),
            _address(self._workspace),
            ctypes.c_size_t(WORKSPACE_BYTES),
            ctypes.c_void_p(stream),
        )

    def _prepare(self, rows: int, columns: int, inner: int, out_type: int) -> _Product:
        # cuBLAS counts by columns: a row-major (N, K) is its (K, N), so out transposed = weight x transposed
        description = ctypes.c_void_p()
        self._call("cublasLtMatmulDescCreate", ctypes.byref(description), _COMPUTE_32F, _REAL_32F)
        transposed = ctypes.c_int32(_TRANSPOSED)
        self._call("cublasLtMatmulDescSetAttribute", description, _DESC_TRANSA, *_by_reference(transposed))
        weight = self._layout(_REAL_16F, inner, columns)
        x = self._layout(_REAL_16F, inner, rows)
        out = self._layout(out_type, columns, rows)
        preference = ctypes.c_void_p()
        self._call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        try:
            space = ctypes.c_uint64(WORKSPACE_BYTES)
            set_preference = "cublasLtMatmulPreferenceSetAttribute"
            self._call(set_preference, preference, _PREFERENCE_WORKSPACE, *_by_reference(space))
            for attribute in _PREFERENCE_ALIGNMENTS:
                self._call(set_preference, preference, attribute, *_by_reference(ctypes.c_uint32(ALIGNMENT_BYTES)))
            found, count = _Found(), ctypes.c_int(0)
            self._call(
                "cublasLtMatmulAlgoGetHeuristic",
                self._handle,
                description,
                weight,
                x,
                out,
                out,
                preference,
                1,
                ctypes.byref(found),
                ctypes.byref(count),
            )
        finally:
            self._call("cublasLtMatmulPreferenceDestroy", preference)
        if count.value < 1 or found.state != 0:
            raise CudaError(f"cuBLASLt has no algorithm for a product of {rows}x{inner} and {columns}x{inner}")
        return _Product(description, weight, x, out, found.algorithm)

    def _layout(self, kind: int, rows: int, columns: int) -> ctypes.c_void_p:
        layout = ctypes.c_void_p()
        self._call(
            "cublasLtMatrixLayoutCreate",
            ctypes.byref(layout),
            kind,
            ctypes.c_uint64(rows),
            ctypes.c_uint64(columns),
            ctypes.c_int64(rows),
        )
        return layout

    def close(self) -> None:
        """Give descriptions, layouts, workspace and handle back."""
        for product in self._products.values():
            for layout in (product.weight, product.x, product.out):
                self._call("cublasLtMatrixLayoutDestroy", layout)
            self._call("cublasLtMatmulDescDestroy", product.description)
        self._products.clear()
        if self._workspace is not None:
            self._workspace.memory.free()
            self._workspace = None
        if self._handle.value is not None:
            self._call("cublasLtDestroy", self._handle)
            self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._library, name)(*arguments))
        if status == 0:
            return
        what = "this product isn't supported" if status == _NOT_SUPPORTED else _STATUS.get(status, "failed")
        raise CudaError(f"cuBLASLt: {name} failed with status {status} ({what})")


def _address(array: DeviceArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(array.pointer))


def _by_reference(value: Any) -> tuple[Any, ctypes.c_size_t]:
    return ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
