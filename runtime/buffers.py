"""Arrays that lie in the caller's own memory: read without a copy, and written into.

Whatever speaks the buffer protocol or DLPack counts as an array: NumPy's, a ``memoryview`` of a C++ host's buffer, a
tensor of another library on the CPU. Results are NumPy arrays, which speak both by themselves.

Source: https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError

HOST_DEVICES = (1, 3)
"""DLPack's numbers for memory that a processor reads: the host's own, and the host's pinned for CUDA."""


def host_array(source: npt.ArrayLike, name: str = "array") -> npt.NDArray[Any]:
    """Return an array on the memory of ``source``; a new one only where there is no such memory, as of a list.

    Parameters
    ----------
    source : an array, anything with the buffer protocol or with DLPack in host memory, or nested sequences.
    name : of the argument, for messages.

    Raises
    ------
    ShapeError : it lies on a GPU, or its library doesn't hand it out.
    """
    if isinstance(source, np.ndarray):
        return source
    return _taken(source, name) if _is_producer(source) else np.asarray(source)


def with_host_arrays(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by name, with each DLPack producer as the array on its memory and all else as it is."""
    return {name: host_array(value, name) if _is_producer(value) else value for name, value in arguments.items()}


def result_array(
    out: Any, shape: tuple[int, ...], dtype: npt.DTypeLike, *, name: str, source: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return where results go: ``out`` itself or the array on its memory, or a new array where it is None.

    Parameters
    ----------
    out : C-contiguous and writable, of exactly this shape and dtype.
    source : what the results are made from; ``out`` may not overlap it.

    Raises
    ------
    ShapeError : anything else.
    """
    if out is None:
        return np.empty(shape, dtype=dtype)
    wanted = np.dtype(dtype)
    array = _writable(out, f"{name}: out")
    if array.dtype != wanted or array.shape != shape:
        raise ShapeError(f"{name}: out: found {array.dtype} {array.shape}, wanted {wanted} {shape}")
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise ShapeError(f"{name}: out: found strides {array.strides}, wanted a C-contiguous array")
    if not array.flags.writeable:
        raise ShapeError(f"{name}: out: found a read-only array, wanted one that can be written to")
    if source is not None and np.may_share_memory(array, source):
        raise ShapeError(f"{name}: out: found an array that overlaps what is read, wanted memory of its own")
    return array


def _writable(out: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(out, np.ndarray):
        return out
    if _is_producer(out):
        return _taken(out, name)
    try:
        return np.asarray(memoryview(out))
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}: found {type(out).__name__}, wanted an array with the buffer protocol or DLPack ({error})"
        ) from None


def _is_producer(source: Any) -> bool:
    return not isinstance(source, np.ndarray | np.generic) and hasattr(source, "__dlpack__")


def _taken(source: Any, name: str) -> npt.NDArray[Any]:
    device = tuple(int(part) for part in source.__dlpack_device__())
    if device[0] not in HOST_DEVICES:
        raise ShapeError(
            f"{name}: found an array on DLPack device {device}, wanted host memory; copy it to the CPU first"
        )
    try:
        return np.from_dlpack(source)
    # whatever the producer's library raises: a gradient to be recorded, a kind of number that NumPy doesn't know
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ShapeError(f"{name}: {type(source).__name__} can't be read as it lies: {error}") from None
