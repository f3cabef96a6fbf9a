"""The CUDA libraries that the device layer stands on, loaded when a GPU is first asked for."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import sys
from typing import Any

from trt_vqgan.errors import BackendUnavailableError

DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
INSTALL = "pip install 'trt-vqgan[gpu]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CudaLibraries:
    """The modules that speak to the CUDA driver.

    Attributes
    ----------
    driver : ``pycuda.driver``: context, stream, memory, modules, launches.
    tools : ``pycuda.tools``: the memory pool.
    bindings : ``cuda.bindings.driver``: graphs, and streams that belong to others.
    """

    driver: Any
    tools: Any
    bindings: Any


def load_cuda_libraries() -> CudaLibraries:
    """Return the CUDA libraries.

    Raises
    ------
    BackendUnavailableError : there is no NVIDIA driver, or pycuda or cuda-bindings is missing; names which.
    """
    load_driver_library()
    return CudaLibraries(
        driver=_module("pycuda.driver", "pycuda"),
        tools=_module("pycuda.tools", "pycuda"),
        bindings=_module("cuda.bindings.driver", "cuda-bindings"),
    )


def load_driver_library() -> None:
    """Load the NVIDIA driver's library for all modules of the process to see.

    pycuda may be built without a link to it (that is how it is built on a machine without a GPU), and then finds its
    functions only if they are loaded globally before.

    Raises
    ------
    BackendUnavailableError : it isn't on this machine.
    """
    name = DRIVER_LIBRARIES[1] if sys.platform == "win32" else DRIVER_LIBRARIES[0]
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        raise BackendUnavailableError(f"no NVIDIA driver on this machine ({name} is missing)") from None


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendUnavailableError(f"{package} can't be imported ({error}); `{INSTALL}` installs it") from error
