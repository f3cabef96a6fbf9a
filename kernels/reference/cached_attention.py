"""Definition of attention over a key-value cache: append the new tokens, then let each of them look back.

Row b holds ``lengths[b]`` positions; its new token t stands at position ``i = lengths[b] + t``. The token's key and
value are written to the cache, and its query attends to every position j it may see:

    j <= i,   or   i < num_unmasked and j < num_unmasked

with scores ``q . k / sqrt(D)``, a softmax and a sum of values, all at least in float32. The output is rounded to its
dtype once. Nothing beyond a row's positions is read, whatever it holds.

A batch may share its first P positions by groups of rows (`SharedPrefix`): they are stored once a group, and the row's
own cache then begins at position P.

This is what the processor runs too, so it works a row at a time with matrix products, in any float dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class SharedPrefix:
    """The first P positions of every row, stored once for each group of rows.

    Attributes
    ----------
    keys, values : (G, H, P, D), the dtype of the caches; P at least 1. Only read.
    group : int32 (B,), in [0, G): whose prefix a row continues.
    """

    keys: FloatArray
    values: FloatArray
    group: NDArray[np.int32]


def cached_attention(
    qkv: FloatArray,
    key_cache: FloatArray,
    value_cache: FloatArray,
    lengths: NDArray[np.int32],
    out: FloatArray,
    *,
    num_unmasked: int = 0,
    prefix: SharedPrefix | None = None,
) -> None:
    """Append T tokens a row to the caches and write what they attend to, in place.

    Parameters
    ----------
    qkv : (B, T, 3, H, D), queries (not scaled), keys and values of the new tokens.
    key_cache, value_cache : (B, H, S, D), S positions of capacity; positions ``lengths[b]`` and on are written.
    lengths : int32 (B,), positions that a row already has, those of a shared prefix included. They are not changed.
    out : (B, T, H * D), written.
    num_unmasked : leading positions that see each other both ways, as far as they are there.
    prefix : the rows' shared first positions; index c of a cache is then position P + c.

    Raises
    ------
    ShapeError
        For shapes that don't fit together, or a group out of range.

    Notes
    -----
    A token beyond the capacity is not appended and its output is zero; the same holds for a whole row whose length is
    below zero (below P with a prefix). That is how a finished or a padding row of a batch stays harmless.

    The mask is that of the published ``CausalSelfAttention`` (``mask[:n_unmasked, :n_unmasked] = 1``).
    """
    _check(qkv, key_cache, value_cache, lengths, out, prefix)
    tokens = qkv.shape[1]
    head_size = qkv.shape[-1]
    capacity = key_cache.shape[2]
    shared = prefix.keys.shape[2] if prefix is not None else 0
    accumulator = np.result_type(qkv.dtype, np.float32)
    scale = accumulator.type(head_size**-0.5)
    for row, length in enumerate(lengths.tolist()):
        first = length - shared
        count = min(tokens, capacity - first) if first >= 0 else 0
        out[row, max(count, 0) :] = 0
        if count <= 0:
            continue
        query, key, value = qkv[row, :count].transpose(1, 2, 0, 3)  # each (H, count, D)
        key_cache[row, :, first : first + count] = key
        value_cache[row, :, first : first + count] = value
        keys = key_cache[row, :, : first + count]
        values = value_cache[row, :, : first + count]
        if prefix is not None:
            group = prefix.group[row]
            keys = np.concatenate([prefix.keys[group], keys], axis=1)
            values = np.concatenate([prefix.values[group], values], axis=1)
        scores = query.astype(accumulator) @ keys.astype(accumulator, copy=False).transpose(0, 2, 1)
        scores *= scale
        if count > 1:
            scores[:, ~visible(length, count, num_unmasked)] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        attended = scores @ values.astype(accumulator, copy=False)
        out[row, :count] = attended.transpose(1, 0, 2).reshape(count, -1)


def visible(length: int, count: int, num_unmasked: int) -> NDArray[np.bool_]:
    """Return bool (count, length + count): which positions each of the new tokens sees."""
    i = np.arange(length, length + count)[:, None]
    j = np.arange(length + count)[None, :]
    sees: NDArray[np.bool_] = (j <= i) | ((i < num_unmasked) & (j < num_unmasked))
    return sees


def _check(
    qkv: FloatArray,
    key_cache: FloatArray,
    value_cache: FloatArray,
    lengths: NDArray[np.int32],
    out: FloatArray,
    prefix: SharedPrefix | None,
) -> None:
    found = (
        f"qkv {qkv.shape}, caches {key_cache.shape} and {value_cache.shape}, lengths {lengths.shape}, out {out.shape}"
    )
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ShapeError(f"cached_attention: found {found}, wanted qkv (B, T, 3, H, D)")
    rows, tokens, _, heads, head_size = qkv.shape
    if (
        key_cache.ndim != 4
        or key_cache.shape != value_cache.shape
        or key_cache.shape[:2] != (rows, heads)
        or key_cache.shape[3] != head_size
        or lengths.shape != (rows,)
        or out.shape != (rows, tokens, heads * head_size)
    ):
        raise ShapeError(
            f"cached_attention: found {found}, wanted caches ({rows}, {heads}, S, {head_size}), lengths ({rows},) "
            f"and out ({rows}, {tokens}, {heads * head_size})"
        )
    if prefix is None:
        return
    keys, group = prefix.keys, prefix.group
    if (
        keys.ndim != 4
        or keys.shape != prefix.values.shape
        or (keys.shape[1], keys.shape[3]) != (heads, head_size)
        or keys.shape[2] < 1
        or group.shape != (rows,)
    ):
        raise ShapeError(
            f"cached_attention: found a prefix of keys {keys.shape}, values {prefix.values.shape} and groups "
            f"{group.shape}, wanted (G, {heads}, P, {head_size}) twice, P at least 1, and ({rows},)"
        )
    if len(group) and not (int(group.min()) >= 0 and int(group.max()) < len(keys)):
        raise ShapeError(
            f"cached_attention: found groups from {group.min()} to {group.max()}, wanted them in [0, {len(keys)})"
        )
