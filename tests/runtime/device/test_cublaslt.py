"""Products by cuBLASLt against a library that records its calls: order, sizes, everything given back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from trt_vqgan.errors import BackendUnavailableError, CudaError, ShapeError
from trt_vqgan.runtime.device import cublaslt
from trt_vqgan.runtime.device.cublaslt import CublasLt, load_cublaslt
from trt_vqgan.runtime.device.host import HostDevice


class FakeLibrary:
    """Hands out handles and counts them."""

    def __init__(self, *, algorithms: int = 1, status: int = 0) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.alive: list[int] = []
        self._algorithms, self._status = algorithms, status

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cublasLt"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            if name.endswith("Create"):
                handle = len(self.calls)
                arguments[0]._obj.value = handle
                self.alive.append(handle)
            elif name.endswith("Destroy"):
                self.alive.remove(arguments[0].value)
            elif name == "cublasLtMatmulAlgoGetHeuristic":
                arguments[-1]._obj.value = self._algorithms
            elif name == "cublasLtMatmul":
                return self._status
            return 0

        return call


def opened(library: FakeLibrary) -> tuple[CublasLt, HostDevice]:
    device, products = HostDevice(), CublasLt(library)
    products.open(device)
    return products, device


def matrices(device: HostDevice, rows: int = 6, columns: int = 5, inner: int = 8, out: Any = np.float32) -> Any:
    half = np.float16
    return (
        device.allocate((rows, inner), half),
        device.allocate((columns, inner), half),
        device.allocate((rows, columns), out),
    )


def test_a_product_is_prepared_once_for_each_shape() -> None:
    library = FakeLibrary()
    products, device = opened(library)
    x, weight, out = matrices(device)
    products.gemm(x, weight, out, accumulate=False, stream=9)
    products.gemm(x, weight, out, accumulate=True, stream=9)
    products.gemm(*matrices(device, out=np.float16), accumulate=False, stream=9)
    names = [call[0] for call in library.calls]
    assert names.count("cublasLtMatmulAlgoGetHeuristic") == 2
    multiplied = [call for call in library.calls if call[0] == "cublasLtMatmul"]
    assert [call[8]._obj.value for call in multiplied] == [0, 1, 0]
    first = multiplied[0]
    # by columns: A is the weight, B is x, C and D are the result
    assert [first[i].value for i in (4, 6, 9, 11)] == [weight.address, x.address, out.address, out.address]
    assert first[16].value == 9
    layouts = [tuple(int(getattr(part, "value", part)) for part in call[2:]) for call in library.calls
               if call[0] == "cublasLtMatrixLayoutCreate"]  # fmt: skip
    assert layouts[:3] == [(2, 8, 5, 8), (2, 8, 6, 8), (0, 5, 6, 5)]
    assert layouts[5] == (2, 5, 6, 5)
    products.close()
    products.close()
    assert library.alive == []


def test_the_heuristics_answer_has_the_headers_layout() -> None:
    assert ctypes.sizeof(cublaslt._Found) == 96


def test_what_does_not_fit_is_refused() -> None:
    products, device = opened(FakeLibrary())
    x, weight, out = matrices(device)
    for arguments in ((x, weight.rows(0, 4), out), (x, weight, device.allocate((6, 5), np.float64))):
        with pytest.raises(ShapeError, match="gemm: found"):
            products.gemm(*arguments, accumulate=False, stream=0)
    with pytest.raises(ShapeError, match="wanted float16"):
        products.gemm(device.allocate((6, 8), np.float32), weight, out, accumulate=False, stream=0)


def test_failures_are_told() -> None:
    products, device = opened(FakeLibrary(algorithms=0))
    with pytest.raises(CudaError, match="no algorithm for a product of 6x8 and 5x8"):
        products.gemm(*matrices(device), accumulate=False, stream=0)
    products, device = opened(FakeLibrary(status=13))
    with pytest.raises(CudaError, match=r"cublasLtMatmul failed with status 13 \(execution failed\)"):
        products.gemm(*matrices(device), accumulate=False, stream=0)


def test_a_machine_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublaslt, "LIBRARIES", ("libcublasLt_absent.so.13",))
    with pytest.raises(BackendUnavailableError, match="libcublasLt_absent.so.13.*pip install nvidia-cublas"):
        load_cublaslt()
