"""Key-value caches of fixed capacity, updated in place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.runtime.cache_buckets import BUCKET, bucket_length
from trt_vqgan.spec import TransformerSpec


class KVCache:
    """Keys and values of all layers for a batch of rows.

    Each layer's keys and values lie in a buffer of their own for ``capacity`` positions, allocated once. A run sees the
    leading ``visible`` positions as a contiguous (B, H, 1, visible, D) view, of all rows or of the first few; when the
    rows outgrow it, `reserve` moves the rows apart inside the same buffers.

    Parameters
    ----------
    spec : the transformer's sizes.
    batch : rows.
    capacity : positions that a row may reach; rounded up to whole buckets.
    """

    def __init__(self, spec: TransformerSpec, *, batch: int, capacity: int) -> None:
        self.batch = batch
        self.capacity = bucket_length(capacity)
        self.visible = BUCKET
        self._heads, self._head_size = spec.num_heads, spec.head_size
        size = batch * self._heads * self.capacity * self._head_size
        # zeros, because a masked position's value is multiplied by an exact zero and must be finite
        self._buffers = [np.zeros(size, dtype=np.float32) for _ in range(2 * spec.num_layers)]
        self.values: list[ort.OrtValue] = []
        self._make_views()

    @staticmethod
    def bytes_needed(spec: TransformerSpec, *, batch: int, capacity: int) -> int:
        """Return the bytes of a cache: 8 x layers x rows x width x capacity (fp32 keys and values)."""
        return 8 * spec.num_layers * batch * spec.hidden_size * bucket_length(capacity)

    def reserve(self, positions: int) -> bool:
        """Make ``positions`` positions a row visible; return whether the views changed (and must be bound again)."""
        wanted = bucket_length(positions)
        if wanted <= self.visible:
            return False
        rows = self.batch * self._heads
        for buffer in self._buffers:
            old = buffer[: rows * self.visible * self._head_size].reshape(rows, self.visible * self._head_size)
            new = buffer[: rows * wanted * self._head_size].reshape(rows, wanted * self._head_size)
            for row in range(rows - 1, 0, -1):  # from the last, so that no row is overwritten before it has moved
                new[row, : old.shape[1]] = old[row]
        self.visible = wanted
        self._make_views()
        return True

    def view(self, index: int) -> npt.NDArray[np.float32]:
        """Return the visible part of buffer ``index`` (2 x layer, plus 1 for values), float32 (B, H, 1, visible, D)."""
        shape = (self.batch, self._heads, 1, self.visible, self._head_size)
        return self._buffers[index][: int(np.prod(shape))].reshape(shape)

    def leading(self, rows: int) -> list[ort.OrtValue]:
        """Return the visible part of each buffer's first ``rows`` rows; they share the cache's memory."""
        # an OrtValue made from a contiguous array shares its memory
        return [ort.OrtValue.ortvalue_from_numpy(self.view(i)[:rows]) for i in range(len(self._buffers))]

    def copy_rows(self, source: KVCache, rows: npt.NDArray[np.int64], positions: int, *, first: int = 0) -> None:
        """Copy the leading ``positions`` positions of row ``rows[i]`` of ``source`` to row ``first + i``, for each."""
        self.reserve(positions)
        to = slice(first, first + len(rows))
        for index in range(len(self._buffers)):
            self.view(index)[to, :, :, :positions] = source.view(index)[rows, :, :, :positions]

    def _make_views(self) -> None:
        self.values = self.leading(self.batch)
