"""What the products of packed weights with a few rows have in common: K is split, and the last block adds the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch

THREADS = 256
"""Of a block."""


@dataclass(frozen=True, kw_only=True)
class SplitProduct:
    """How W (N, K) is multiplied with a few rows.

    Attributes
    ----------
    outputs, inputs : N and K.
    rows : of the batch.
    splits : blocks that share one tile of outputs, each with a part of K.
    """

    TILE: ClassVar[int]

    outputs: int
    inputs: int
    rows: int
    splits: int

    @property
    def tiles(self) -> int:
        """Tiles of `TILE` outputs."""
        return -(-self.outputs // self.TILE)

    @property
    def ticket_bytes(self) -> int:
        """Workspace for tickets: zeros at first, and again after each launch."""
        return self.tiles * 4 if self.splits > 1 else 0


@dataclass(frozen=True, kw_only=True)
class LinearAddresses:
    """Where a layer's weights (packed by `trt_vqgan.kernels.packing.pack_weights`) and its bias float32 (N,) lie.

    A bias at 0 is none.
    """

    weights: int
    bias: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Addresses of ``partial_bytes`` and ``ticket_bytes`` of memory, the most of all matrices of a stream."""

    partials: int
    tickets: int


def check_matrix(kernel: str, outputs: int, inputs: int) -> None:
    """Raise ShapeError unless W (N, K) has outputs, and a K that is a multiple of 8."""
    if outputs < 1 or inputs < 8 or inputs % 8:
        raise ShapeError(f"{kernel}: found a matrix ({outputs}, {inputs}), wanted (N, K) with K a multiple of 8")


def product_launch(
    kernel: str,
    plan: SplitProduct,
    layer: LinearAddresses,
    workspace: Workspace,
    part_of_split: int,
    *arguments: np.generic,
    shared_bytes: int,
) -> Launch:
    """Return the launch of a kernel that takes ``arguments`` behind what all of them take.

    ``part_of_split`` is how much of K a split has, in the kernel's own measure.
    """
    return Launch(
        kernel=kernel,
        grid=(plan.tiles, plan.splits, 1),
        block=(THREADS, 1, 1),
        shared_bytes=shared_bytes,
        arguments=(
            np.uint64(layer.weights),
            np.uint64(layer.bias),
            np.uint64(workspace.partials),
            np.uint64(workspace.tickets),
            np.int32(plan.outputs),
            np.int32(plan.inputs),
            np.int32(plan.rows),
            np.int32(part_of_split),
            *arguments,
        ),
    )
