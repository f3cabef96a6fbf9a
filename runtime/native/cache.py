"""Key-value caches in the layout that kernels/cpu reads from front to back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.spec import TransformerSpec

LANES = 16
"""Positions whose keys lie side by side, channel by channel; channels of values are padded to a multiple."""

FloatArray = npt.NDArray[np.floating[Any]]
Number = type[np.float32] | type[np.float16]


class NativeCache:
    """Keys and values of all layers for a batch of rows, at places that never move.

    Attributes
    ----------
    keys : ``number`` (layers, B, H, capacity / 16, D, 16).
    values : ``number`` (layers, B, H, capacity, D rounded up to 16).

    Parameters
    ----------
    spec : the transformer's sizes.
    batch : rows.
    capacity : positions that a row may reach; rounded up to whole buckets.
    number : float32 or float16.
    """

    def __init__(self, spec: TransformerSpec, *, batch: int, capacity: int, number: Number = np.float32) -> None:
        self.spec = spec
        self.batch = batch
        self.capacity = bucket_length(max(capacity, 1))
        heads, size = spec.num_heads, spec.head_size
        padded = _padded(size)
        self.keys: FloatArray = np.zeros((spec.num_layers, batch, heads, self.capacity // LANES, size, LANES), number)
        self.values: FloatArray = np.zeros((spec.num_layers, batch, heads, self.capacity, padded), number)

    @staticmethod
    def bytes_needed(spec: TransformerSpec, *, batch: int, capacity: int, number: Number = np.float32) -> int:
        """Return a cache's bytes: a number's x layers x rows x heads x capacity x (head size, and it padded)."""
        a_position = np.dtype(number).itemsize * spec.num_heads * (spec.head_size + _padded(spec.head_size))
        return spec.num_layers * batch * bucket_length(max(capacity, 1)) * a_position

    def reserve(self, positions: int) -> bool:
        """Return False: nothing moves. ``positions`` must be within the capacity."""
        assert positions <= self.capacity, (positions, self.capacity)
        return False

    def copy_rows(self, source: NativeCache, rows: npt.NDArray[np.int64], positions: int, *, first: int = 0) -> None:
        """Copy the leading ``positions`` positions of row ``rows[i]`` of ``source`` to row ``first + i``, for each."""
        blocks, to = -(-positions // LANES), slice(first, first + len(rows))
        self.keys[:, to, :, :blocks] = source.keys[:, rows, :, :blocks]
        self.values[:, to, :, :positions] = source.values[:, rows, :, :positions]


def _padded(size: int) -> int:
    """Return the channels of a head's values."""
    return -(-size // LANES) * LANES
