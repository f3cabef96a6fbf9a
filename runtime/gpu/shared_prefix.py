"""First positions that pictures of a batch have in common: kept once, and read once a step for up to 16 of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.kernels.launches.cached_attention import shared_rows
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.cache import DeviceCache
from trt_vqgan.runtime.gpu.operations import PrefixArrays
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]

SHARE_FROM_BYTES = 6_000_000
"""Keys and values of a layer whose reading a shared prefix must save to be worth its further launch: what a GPU reads,
at 3 TB/s, in the 2 us that a launch in a graph takes. `gpu-check` times steps both ways."""

_TOGETHER = 16  # rows that one reading serves


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Who has which prefix.

    Attributes
    ----------
    tokens : int64 (G, P), the different prefixes.
    group : int64 (rows,), which of them each row of a drawing has.
    """

    tokens: Int64Array
    group: Int64Array


def find_sharing(prefixes: Sequence[Int64Array], *, position_bytes: int, share_from: int) -> Sharing | None:
    """Return who shares what, or None where sharing doesn't pay.

    It pays where all rows have prefixes of one length, and enough of them are equal: each step, the keys and values of
    a layer are then read once for up to 16 equal rows and not once a row, which must save ``share_from`` bytes.

    Parameters
    ----------
    prefixes : tokens int64 (T,) of each row.
    position_bytes : keys and values of one position and layer.
    """
    if len({len(prefix) for prefix in prefixes}) != 1:
        return None
    tokens, group, counts = np.unique(np.stack(prefixes), axis=0, return_inverse=True, return_counts=True)
    readings = int((-(-counts // _TOGETHER)).sum())
    if readings == len(prefixes) or (len(prefixes) - readings) * tokens.shape[1] * position_bytes < share_from:
        return None
    return Sharing(tokens, group.reshape(-1).astype(np.int64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixSize:
    """What a graph is made for: ``groups`` prefixes, a power of two, of ``length`` positions."""

    length: int
    groups: int

    @classmethod
    def of(cls, sharing: Sharing) -> PrefixSize:
        """Return the size that prefixes are kept at."""
        groups, length = sharing.tokens.shape
        return cls(length=length, groups=1 << (groups - 1).bit_length())

    def sets(self, rows: int) -> int:
        """Return how many sets of rows that are read for together ``rows`` rows may need."""
        return min(rows, (rows + (_TOGETHER - 1) * self.groups) // _TOGETHER)


class PrefixCache:
    """The prefixes of a plan, and who has which; in place, so that a graph may hold it.

    Parameters
    ----------
    device, spec, number : as of the plan.
    size : how many prefixes, of how many positions.
    rows : of the plan.
    """

    def __init__(
        self, device: Device, spec: TransformerSpec, *, size: PrefixSize, rows: int, number: np.dtype[Any]
    ) -> None:
        self.size = size
        self._device = device
        self.cache = DeviceCache(
            device, spec, batch=size.groups, capacity=size.length, number=number, whole_buckets=False
        )
        self._group = device.allocate((rows,), np.int32)
        self._members = device.allocate((size.sets(rows), _TOGETHER + 1), np.int32)

    def upload(self, group: npt.NDArray[np.int32]) -> None:
        """Say which prefix each row has, int32 (rows,); -1 for a row that idles."""
        self._device.upload(self._group, np.maximum(group, 0))
        self._device.upload(self._members, shared_rows(group, sets=self._members.shape[0]))

    def layer(self, index: int) -> PrefixArrays:
        """Return what attention of a layer reads."""
        return PrefixArrays(
            keys=self.cache.keys(index), values=self.cache.values(index), group=self._group, members=self._members
        )

    def free(self) -> None:
        """Give the memory back."""
        self.cache.free()
        self._group.memory.free()
        self._members.memory.free()
