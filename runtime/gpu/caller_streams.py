"""A caller's CUDA stream: what it is given as, and that our work keeps its order with it."""

from __future__ import annotations

from typing import Any

from trt_vqgan.errors import ShapeError


def stream_handle(stream: Any) -> int:
    """Return the handle of a stream.

    Parameters
    ----------
    stream : the handle of a CUDA stream, an integer (0 and 1 are the default stream, 2 the calling thread's), or an
        object with ``__cuda_stream__()``, which returns a version and the handle.

    Raises
    ------
    ShapeError : anything else.

    Notes
    -----
    The protocol: https://nvidia.github.io/cuda-python/cuda-core/latest/interoperability.html
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return _checked(stream)
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is None:
        raise ShapeError(
            f"stream: found {type(stream).__name__}, wanted the handle of a CUDA stream or an object with "
            "__cuda_stream__; of torch's stream that is its cuda_stream"
        )
    _, handle = protocol()
    return _checked(int(handle))


def _checked(handle: int) -> int:
    if not 0 <= handle < 2**64:
        raise ShapeError(f"stream: found {handle}, wanted the handle of a CUDA stream")
    return handle
