"""Weights of a model by canonical key, read from their file one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.export.stored_tensor import StoredTensor


@dataclasses.dataclass(frozen=True)
class Weight:
    """A stored tensor and the rows of it that are kept, in order; None for all."""

    tensor: StoredTensor
    rows: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of what `read` returns."""
        if self.rows is None:
            return self.tensor.shape
        return (len(self.rows), *self.tensor.shape[1:])

    def read(self) -> NDArray[np.float32]:
        """Return the values, float32 and C-contiguous."""
        values = self.tensor.read()
        return values if self.rows is None else values[self.rows]


class Weights(Mapping[str, NDArray[np.float32]]):
    """Weights by canonical key; a value is read from the file each time it is asked for and held by nobody else.

    Values are float32 and C-contiguous. Keys and shapes cost no reading.
    """

    def __init__(self, entries: Mapping[str, Weight]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        return self._entries[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a weight without reading it."""
        return self._entries[key].shape
