"""The transformer on a device: tokens in, a cache that grows, logits out, in whatever parts memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.device.arrays import DeviceArray, Region
from trt_vqgan.runtime.device.interface import Device, upload_new
from trt_vqgan.runtime.gpu.activations import FLOAT, Activations, activation_bytes, allocate_activations
from trt_vqgan.runtime.gpu.cache import DeviceCache
from trt_vqgan.runtime.gpu.executors.interface import Executor
from trt_vqgan.runtime.gpu.operations import Operations
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]

PREFILL_BYTES = 512 << 20
"""Bound on the buffers of a prefill; larger batches are split."""


class ForwardPass:
    """Embedding, layers and head as operations on device arrays, issued and not waited for.

    Parameters
    ----------
    spec : the transformer's sizes.
    device : where it runs, active in the calling thread.
    operations, executor : what computes, on that device.
    number : of the activations.
    row_by_row : rows are computed one at a time.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        device: Device,
        operations: Operations,
        executor: Executor,
        *,
        number: np.dtype[Any],
        row_by_row: bool,
    ) -> None:
        self._spec, self._device, self._number = spec, device, number
        self._operations, self._executor = operations, executor
        self._row_by_row = row_by_row

    def run(
        self,
        cache: DeviceCache,
        tokens: Int64Array,
        *,
        start: int,
        rows: Int64Array,
        num_unmasked: int,
        first: int = 0,
    ) -> Iterator[tuple[slice, DeviceArray]]:
        """Yield parts of the batch with their logits float32 (part, R, V), as many rows at once as fit the bound.

        ``first`` is the cache's row of the first row of ``tokens``.
        """
        batch, length = tokens.shape
        if start + length > min(cache.capacity, self._spec.max_seq_len):
            raise ShapeError(
                f"transformer: found {start + length} positions, wanted at most {self._spec.max_seq_len}, and "
                f"{cache.capacity} in this cache"
            )
        each = activation_bytes(self._spec, tokens=length, rows=len(rows), number=self._number)
        size = 1 if self._row_by_row else max(1, min(batch, PREFILL_BYTES // each))
        for begin in range(0, batch, size):
            part = slice(begin, min(begin + size, batch))
            work = allocate_activations(
                self._device, self._spec, batch=part.stop - begin, tokens=length, number=self._number
            )
            lengths = upload_new(self._device, np.full(work.batch, start, dtype=np.int32))
            self._embed(work, tokens[part], start)
            unmasked = min(num_unmasked, length) if start == 0 else 0
            self.layers(work, cache, lengths, first=first + begin, num_unmasked=unmasked)
            yield part, self.logits(work, rows)

    def _embed(self, work: Activations, tokens: Int64Array, start: int) -> None:
        positions = np.broadcast_to(np.arange(start, start + tokens.shape[1], dtype=np.int32), tokens.shape)
        self._operations.embed_tokens(
            upload_new(self._device, tokens.astype(np.int32)),
            upload_new(self._device, np.ascontiguousarray(positions)),
            work.x,
        )

    def layers(
        self, work: Activations, cache: DeviceCache, lengths: DeviceArray, *, first: int, num_unmasked: int
    ) -> None:
        """Run all layers up to the last attention, appending to the cache's rows from ``first`` on."""
        workspace = self._operations.attention_workspace(batch=work.batch, tokens=work.tokens, capacity=cache.capacity)
        self._executor.first(work)
        for layer in range(self._spec.num_layers):
            keys = cache.keys(layer, first=first, count=work.batch)
            values = cache.values(layer, first=first, count=work.batch)
            self._operations.cached_attention(work, keys, values, lengths, workspace, num_unmasked=num_unmasked)
            if layer + 1 < self._spec.num_layers:
                self._executor.middle(layer + 1, work)
        workspace.free()

    def logits(self, work: Activations, rows: Int64Array) -> DeviceArray:
        """Return the logits float32 (B, R, V) of the tokens ``rows``."""
        logits = self._device.allocate((work.batch, len(rows), self._spec.vocab_size), FLOAT)
        if not len(rows):
            return logits
        x, attended = (self._gathered(array, rows) for array in (work.x, work.attended))
        self._executor.last(x, attended, logits)
        return logits

    def _gathered(self, array: DeviceArray, rows: Int64Array) -> DeviceArray:
        """Return the tokens ``rows`` of (B, T, d) as (B, R, d)."""
        batch, tokens, width = array.shape
        if np.array_equal(rows, np.arange(tokens)):
            return array
        step = width * array.dtype.itemsize
        found = self._device.allocate((batch, len(rows), width), array.dtype)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            source = Region(array=array, offset=int(rows[run[0]]) * step, pitch=tokens * step)
            target = Region(array=found, offset=int(run[0]) * step, pitch=len(rows) * step)
            self._device.copy(target, source, width=len(run) * step, rows=batch)
        return found
