"""Definition of the transformer's input: the embedding of a token plus that of its position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

FloatArray = NDArray[np.floating[Any]]
Int32Array = NDArray[np.int32]


def embed_tokens(
    tokens: Int32Array,
    positions: Int32Array,
    *,
    token_embedding: FloatArray,
    position_embedding: FloatArray,
    out: NDArray[np.float32],
) -> None:
    """Write the embedding of each token, one float32 addition an element.

    Parameters
    ----------
    tokens, positions : int32 (B, T), rows of the tables. A GPU doesn't check them.
    token_embedding : (V, d), float16 or float32.
    position_embedding : (P, d), the same dtype.
    out : float32 (B, T, d), written.

    Raises
    ------
    ShapeError
        If the shapes don't fit together, or a token or position is out of range.
    """
    hidden = token_embedding.shape[1]
    if positions.shape != tokens.shape or position_embedding.shape[1] != hidden or out.shape != (*tokens.shape, hidden):
        raise ShapeError(
            f"embed_tokens: found tokens {tokens.shape}, positions {positions.shape}, embeddings "
            f"{token_embedding.shape} and {position_embedding.shape}, out {out.shape}; wanted (B, T) twice, (V, d), "
            "(P, d) and (B, T, d)"
        )
    for name, index, table in (("token", tokens, token_embedding), ("position", positions, position_embedding)):
        if index.size and not 0 <= index.min() <= index.max() < len(table):
            raise ShapeError(
                f"embed_tokens: found a {name} from {index.min()} to {index.max()}, wanted 0 to {len(table) - 1}"
            )
    np.add(token_embedding[tokens], position_embedding[positions], out=out, dtype=np.float32)
