"""Definition of the end of a decode step: draw each picture's next code, and make the state ready for the next step.

The state of a batch lives where the step runs, and only this operation changes it, so a step can be replayed any number
of times with nothing in between. A row of logits predicts the code at ``columns[b]`` of the model's order; when it is
drawn it becomes the token at position ``lengths[b]`` + 1, and its embedding the next input of the transformer.

With guidance a batch of B pictures has 2B rows of logits, lengths and inputs: row b with the condition, row B + b
without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference.sample_codes import draw, greedy_code, kept_weights_at_rate

FloatArray = NDArray[np.floating[Any]]
Int32Array = NDArray[np.int32]

SAMPLING_ROW = np.dtype(
    [
        ("seed", "<u8"),
        ("rate", "<f4"),  # kernels.reference.sample_codes.exponent_rate of the temperature
        ("top_k", "<i4"),  # at least 1; KEEP_ALL for no limit
        ("top_p", "<f4"),
        ("greedy", "<i4"),  # 0 or 1
        ("guidance_scale", "<f4"),
        ("codebook_size", "<i4"),  # only logits[:codebook_size] are drawn from
    ]
)
"""How a row's codes are chosen; 32 bytes, the same layout as the kernel's struct."""

KEEP_ALL = 2**31 - 1
"""``top_k`` that drops nothing."""

FREE = -1
"""In ``forced``: the code is drawn. In ``codes``: not drawn yet."""

UNUSABLE = -2
"""Written as the code of a row whose logits hold NaN or +inf, or nothing but -inf; the next input is then code 0's."""

_WORD = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class DecodeState:
    """The state of B pictures with N codes each; arrays are changed in place.

    Attributes
    ----------
    lengths : int32 (B,), with guidance (2B,): positions that are in the caches.
    columns : int32 (B,), index of the code that is drawn next, in the model's order.
    ends : int32 (B,); rows with ``columns[b] >= ends[b]`` are finished, and nothing of them changes. At most N.
    codes : int32 (B, N), filled in; `FREE` or anything else where nothing is drawn yet.
    forced : int32 (B, N), code that is taken instead of drawn, or `FREE`.
    code_positions : uint32 (N,), place in the latent grid of each code, as the random numbers count them.
    pictures : uint32 (B,), number of each picture, likewise.
    sampling : `SAMPLING_ROW` (B,).
    """

    lengths: Int32Array
    columns: Int32Array
    ends: Int32Array
    codes: Int32Array
    forced: Int32Array
    code_positions: NDArray[np.uint32]
    pictures: NDArray[np.uint32]
    sampling: NDArray[np.void]

    @property
    def guided(self) -> bool:
        """Whether each picture has a second row, without its condition."""
        return len(self.lengths) != len(self.columns)

    def active(self) -> NDArray[np.intp]:
        """Return the rows that aren't finished."""
        return np.flatnonzero(self.columns < self.ends)


def sample_step(
    logits: NDArray[np.float32],
    state: DecodeState,
    x: NDArray[np.float32],
    *,
    token_embedding: FloatArray,
    position_embedding: FloatArray,
) -> None:
    """Draw a code for each active row, and `advance` the state.

    Parameters
    ----------
    logits : float32 (B, V), with guidance (2B, V); V at least each row's codebook_size.
    state, x, token_embedding, position_embedding : as in `advance`.

    Raises
    ------
    ShapeError
        If the arrays don't fit together.
    """
    batch = len(state.columns)
    if logits.ndim != 2 or len(logits) != len(state.lengths):
        raise ShapeError(f"sample_step: found logits {logits.shape}, wanted ({len(state.lengths)}, V)")
    codes = np.full(batch, FREE, np.int32)
    for row in state.active():
        forced = state.forced[row, state.columns[row]]
        if forced >= 0:
            codes[row] = forced
            continue
        sampling = state.sampling[row]
        usable = logits[:, : sampling["codebook_size"]]
        drawn_from = usable[row]
        if state.guided:
            drawn_from = guided_logits(drawn_from, usable[batch + row], scale=sampling["guidance_scale"])
        codes[row] = next_code(
            drawn_from,
            sampling,
            picture=int(state.pictures[row]),
            position=int(state.code_positions[state.columns[row]]),
        )
    advance(state, codes, x, token_embedding=token_embedding, position_embedding=position_embedding)


def advance(
    state: DecodeState,
    codes: Int32Array,
    x: NDArray[np.float32],
    *,
    token_embedding: FloatArray,
    position_embedding: FloatArray,
) -> None:
    """Write down the codes of the active rows and make the next inputs.

    Parameters
    ----------
    state : changed in place.
    codes : int32 (B,), the code of each active row's column, or `UNUSABLE`.
    x : float32 (B, d), with guidance (2B, d); written for active rows: embedding of the code + embedding of the
        position that it takes, one float32 addition. Not where the model has no such position (after the last code).
    token_embedding : (V, d), float16 or float32.
    position_embedding : (P, d), the same dtype.

    Raises
    ------
    ShapeError
        If the arrays don't fit together.
    """
    batch = len(state.columns)
    if codes.shape != (batch,) or x.shape != (len(state.lengths), token_embedding.shape[1]):
        raise ShapeError(
            f"advance: found codes {codes.shape} and x {x.shape}, wanted ({batch},) and "
            f"{(len(state.lengths), token_embedding.shape[1])}"
        )
    rows = state.active()
    state.codes[rows, state.columns[rows]] = codes[rows]
    state.columns[rows] += 1
    lengths = state.lengths[rows] + 1
    state.lengths[rows] = lengths
    if state.guided:
        state.lengths[rows + batch] = lengths
    has_next = lengths < len(position_embedding)
    rows, lengths = rows[has_next], lengths[has_next]
    token = token_embedding[np.maximum(codes[rows], 0)].astype(np.float32)
    x[rows] = token + position_embedding[lengths].astype(np.float32)
    if state.guided:
        x[rows + batch] = x[rows]


def guided_logits(
    given: NDArray[np.float32], without: NDArray[np.float32], *, scale: np.float32
) -> NDArray[np.float32]:
    """Return ``without + scale * (given - without)``, each operation rounded to float32 by itself."""
    with np.errstate(invalid="ignore", over="ignore"):
        result: NDArray[np.float32] = without + np.float32(scale) * (given - without)
    return result


def next_code(logits: NDArray[np.float32], sampling: np.void, *, picture: int, position: int) -> int:
    """Return the code drawn from one row of logits float32 (codebook_size,), or `UNUSABLE`.

    Parameters
    ----------
    sampling : one `SAMPLING_ROW`.
    picture, position : of the code, from 0 to 2**32 - 1.
    """
    if not np.isfinite(logits.max()):  # NaN if there is one
        return UNUSABLE
    if sampling["greedy"]:
        return greedy_code(logits)
    weights = kept_weights_at_rate(
        logits, rate=sampling["rate"], top_k=int(sampling["top_k"]), top_p=float(sampling["top_p"])
    )
    return draw(weights, philox_random(int(sampling["seed"]), picture=picture, position=position))


def philox_random(seed: int, *, picture: int, position: int) -> int:
    """Return 64 random bits: the first two words of Philox4x32 for the counter (position, picture, 0, 0).

    Notes
    -----
    Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11, section 5.3; ten rounds. The seed's
    low and high words are the key.
    """
    c0, c1, c2, c3 = position, picture, 0, 0
    k0, k1 = seed & _WORD, seed >> 32
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & _WORD, (product0 >> 32) ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0 << 32 | c1
