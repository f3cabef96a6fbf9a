"""Key-value caches in device memory: all layers in one allocation, updated in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.device.arrays import DeviceArray, Region
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.spec import TransformerSpec


class DeviceCache:
    """Keys and values of all layers for a batch of rows, numbers (2 x layers, B, H, S, D).

    What lies beyond a row's positions is never read, so nothing is cleared.

    Parameters
    ----------
    device : where it lies.
    spec : the transformer's sizes.
    batch : rows.
    capacity : positions that a row may reach; rounded up to ``whole_buckets``.
    number : float16, or float32 where a model is checked exactly.
    """

    def __init__(
        self,
        device: Device,
        spec: TransformerSpec,
        *,
        batch: int,
        capacity: int,
        number: np.dtype[Any],
        whole_buckets: bool = True,
    ) -> None:
        self.batch = batch
        self.capacity = bucket_length(capacity) if whole_buckets else capacity
        self._device = device
        shape = (2 * spec.num_layers, batch, spec.num_heads, self.capacity, spec.head_size)
        self._values = device.allocate(shape, number)

    def keys(self, layer: int, *, first: int = 0, count: int | None = None) -> DeviceArray:
        """Return the keys (count, H, S, D) of a layer, by default of all rows."""
        return self._rows(2 * layer, first, count)

    def values(self, layer: int, *, first: int = 0, count: int | None = None) -> DeviceArray:
        """Return the values (count, H, S, D) of a layer, by default of all rows."""
        return self._rows(2 * layer + 1, first, count)

    def _rows(self, index: int, first: int, count: int | None) -> DeviceArray:
        return self._values.item(index).rows(first, self.batch if count is None else first + count)

    def copy_rows(self, source: DeviceCache, rows: npt.NDArray[np.int64], positions: int, *, first: int = 0) -> None:
        """Copy the leading ``positions`` positions of row ``rows[i]`` of ``source`` to row ``first + i``, for each."""
        if positions > min(self.capacity, source.capacity):
            raise ShapeError(
                f"cache: found {positions} positions to copy, wanted at most {min(self.capacity, source.capacity)}"
            )
        with self._device.active():
            for i, row in enumerate(rows.tolist()):
                self._copy_row(source, row, first + i, positions)

    def _copy_row(self, source: DeviceCache, row: int, to: int, positions: int) -> None:
        layers, _, heads, _, size = self._values.shape
        itemsize = self._values.dtype.itemsize

        def region(cache: DeviceCache, index: int) -> Region:
            pitch = cache.capacity * size * itemsize
            return Region(
                array=cache._values, offset=index * heads * pitch, pitch=pitch, plane_rows=cache.batch * heads
            )

        width = positions * size * itemsize
        self._device.copy(region(self, to), region(source, row), width=width, rows=heads, planes=layers)

    def free(self) -> None:
        """Give the memory back."""
        self._values.memory.free()

    @staticmethod
    def bytes_needed(spec: TransformerSpec, *, batch: int, capacity: int, number: np.dtype[Any]) -> int:
        """Return the bytes of a cache."""
        return 2 * spec.num_layers * batch * spec.hidden_size * bucket_length(capacity) * number.itemsize
