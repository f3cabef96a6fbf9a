"""Launches of `kernels/csrc/dense_rows.cu`: the dense parts of a decode step of up to 64 rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.dense_step import LinearAddresses, Workspace

MAX_ROWS = 64

DenseKind = Literal["linear", "gelu", "logits", "residual"]
"""What stands behind the product: nothing (half), GELU (half), nothing (float32), or x += it (float32)."""

_SIZES = (16, 32, 64)  # rows that the kernels are compiled for
_OUTPUTS = 64
_CHUNK = 128
_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class DenseRows:
    """How one matrix is multiplied.

    Attributes
    ----------
    outputs, inputs : N and K.
    rows : of the batch, 1 to `MAX_ROWS`.
    splits : blocks that share one tile of outputs, each with a part of K.
    chunks_of_split : chunks of 128 k that each of them takes (the last maybe fewer).
    """

    outputs: int
    inputs: int
    rows: int
    splits: int
    chunks_of_split: int

    @property
    def size(self) -> int:
        """Rows that the kernel is compiled for."""
        return next(size for size in _SIZES if self.rows <= size)

    @property
    def tiles(self) -> int:
        """Tiles of 64 outputs."""
        return -(-self.outputs // _OUTPUTS)

    @property
    def partial_bytes(self) -> int:
        """Workspace for partial sums. Its contents don't matter, and one serves all kernels of a stream."""
        return self.tiles * self.splits * self.size * _OUTPUTS * 4 if self.splits > 1 else 0

    @property
    def ticket_bytes(self) -> int:
        """Workspace for tickets: zeros at first, and again after each launch."""
        return self.tiles * 4 if self.splits > 1 else 0


def plan_dense_rows(*, outputs: int, inputs: int, rows: int, multiprocessors: int) -> DenseRows:
    """Return how to multiply W (N, K) with ``rows`` rows.

    K is split where tiles of outputs alone would leave a multiprocessor without a block, as long as a block keeps two
    chunks of 128 k: one to multiply while the other arrives.

    Raises
    ------
    ShapeError
        For a number of rows that isn't 1 to `MAX_ROWS`, or a K that isn't a multiple of 8.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ShapeError(f"dense_rows: found {rows} rows, wanted 1 to {MAX_ROWS}; more are a matrix product's work")
    if outputs < 1 or inputs < 8 or inputs % 8:
        raise ShapeError(f"dense_rows: found a matrix ({outputs}, {inputs}), wanted (N, K) with K a multiple of 8")
    chunks = -(-inputs // _CHUNK)
    tiles = -(-outputs // _OUTPUTS)
    splits = min(-(-multiprocessors // tiles), max(1, chunks // 2))
    chunks_of_split = -(-chunks // splits)
    return DenseRows(
        outputs=outputs,
        inputs=inputs,
        rows=rows,
        splits=-(-chunks // chunks_of_split),  # none is empty
        chunks_of_split=chunks_of_split,
    )


def dense_rows(
    plan: DenseRows, kind: DenseKind, *, layer: LinearAddresses, workspace: Workspace, activations: int, out: int
) -> Launch:
    """Return the launch of a product.

    Parameters
    ----------
    kind : what is made of it. "linear" and "logits" are `trt_vqgan.kernels.reference.dense_step.linear`, "gelu" is its
        `gelu`, "residual" is `trt_vqgan.kernels.reference.dense_step.linear_residual`.
    activations : address of half (R, K), aligned to 16 bytes.
    out : address of (R, N), half or float32 as ``kind`` says.
    """
    return Launch(
        kernel=f"dense_rows_{kind}_{plan.size}",
        grid=(plan.tiles, plan.splits, 1),
        block=(_THREADS, 1, 1),
        shared_bytes=16 + plan.size * 640,
        arguments=(
            np.uint64(layer.weights),
            np.uint64(layer.bias),
            np.uint64(workspace.partials),
            np.uint64(workspace.tickets),
            np.int32(plan.outputs),
            np.int32(plan.inputs),
            np.int32(plan.rows),
            np.int32(plan.chunks_of_split),
            np.uint64(activations),
            np.uint64(out),
        ),
    )
