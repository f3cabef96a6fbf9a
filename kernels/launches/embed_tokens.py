"""Launch of `kernels/csrc/embed_tokens.cu`: the input of a prefill."""

from __future__ import annotations

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch


def embed_tokens(
    *,
    tokens: int,
    positions: int,
    token_embedding: int,
    position_embedding: int,
    out: int,
    rows: int,
    hidden_size: int,
    tables: np.dtype[np.floating],
) -> Launch:
    """Return the launch that does `trt_vqgan.kernels.reference.embed_tokens.embed_tokens`, bit for bit.

    Parameters
    ----------
    tokens, positions, token_embedding, position_embedding, out : addresses on the device, aligned to 16 bytes.
    rows : B * T.
    hidden_size : d, a multiple of 4.
    tables : float16 or float32, of both embeddings.

    Raises
    ------
    ShapeError
        For sizes out of range or another dtype.
    """
    if rows < 1 or hidden_size < 4 or hidden_size % 4:
        raise ShapeError(
            f"embed_tokens: found {rows} rows of hidden_size {hidden_size}, wanted at least one and a multiple of 4"
        )
    if tables not in (np.float16, np.float32):
        raise ShapeError(f"embed_tokens: found embeddings of {tables}, wanted float16 or float32")
    return Launch(
        kernel="embed_tokens_half" if tables == np.float16 else "embed_tokens_float",
        grid=(rows, 1, 1),
        block=(128, 1, 1),
        shared_bytes=0,
        arguments=(
            np.uint64(tokens),
            np.uint64(positions),
            np.uint64(token_embedding),
            np.uint64(position_embedding),
            np.uint64(out),
            np.int32(hidden_size),
        ),
    )
