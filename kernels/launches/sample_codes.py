"""Launch of `kernels/csrc/sample_codes.cu`: the end of a decode step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

MAX_VOCABULARY = 65536
"""Sums of so many weights of 2**30, in two words, don't overflow."""

SHARED_BYTES = 32 * 8 + 8 + 2 * 256 * 4 + 8
"""Size of the kernel's struct `Shared`."""

_IN_REGISTERS = (("sample_codes_1024", 256, 1024), ("sample_codes_16384", 1024, 16384))


@dataclass(frozen=True, kw_only=True)
class DecodeStateAddresses:
    """Where arrays as those of `trt_vqgan.kernels.reference.decode_state.DecodeState` lie on the device."""

    lengths: int
    columns: int
    ends: int
    codes: int
    forced: int
    code_positions: int
    pictures: int
    sampling: int


def sample_codes(
    state: DecodeStateAddresses,
    *,
    logits: int,
    x: int,
    token_embedding: int,
    position_embedding: int,
    batch: int,
    num_codes: int,
    vocabulary: int,
    hidden_size: int,
    num_positions: int,
    guided: bool = False,
    tables: np.dtype[np.floating],
) -> Launch:
    """Return the launch that does `trt_vqgan.kernels.reference.decode_state.sample_step`, bit for bit.

    Parameters
    ----------
    state, logits, x, token_embedding, position_embedding : addresses on the device; ``logits`` and ``x`` float32.
    batch : pictures B; with guidance the arrays of rows have 2B.
    num_codes : N, the width of ``codes`` and ``forced``.
    vocabulary : V, the width of a row of logits; each row draws from its first ``codebook_size``.
    hidden_size, num_positions : d, and the positions P of the model.
    tables : float16 or float32, of both embeddings.

    Raises
    ------
    ShapeError
        For sizes out of range or another dtype.
    """
    if not 1 <= vocabulary <= MAX_VOCABULARY:
        raise ShapeError(f"sample_codes: found a vocabulary of {vocabulary}, wanted 1 to {MAX_VOCABULARY}")
    if min(batch, num_codes, hidden_size, num_positions) < 1:
        raise ShapeError(
            f"sample_codes: found {batch} pictures of {num_codes} codes, hidden_size {hidden_size} and {num_positions} "
            "positions, wanted at least 1 of each"
        )
    if tables not in (np.float16, np.float32):
        raise ShapeError(f"sample_codes: found embeddings of {tables}, wanted float16 or float32")
    kernel, threads = "sample_codes_streamed", 1024
    for name, count, codes in reversed(_IN_REGISTERS):
        if vocabulary <= codes:
            kernel, threads = name, count
    return Launch(
        kernel=kernel,
        grid=(batch, 1, 1),
        block=(threads, 1, 1),
        shared_bytes=SHARED_BYTES,
        arguments=(
            np.uint64(logits),
            np.int32(vocabulary),
            np.uint64(state.sampling),
            np.uint64(state.pictures),
            np.uint64(state.code_positions),
            np.uint64(state.forced),
            np.uint64(state.codes),
            np.int32(num_codes),
            np.uint64(state.columns),
            np.uint64(state.ends),
            np.uint64(state.lengths),
            np.int32(guided),
            np.uint64(token_embedding),
            np.uint64(position_embedding),
            np.int32(tables == np.float32),
            np.uint64(x),
            np.int32(hidden_size),
            np.int32(num_positions),
        ),
    )
