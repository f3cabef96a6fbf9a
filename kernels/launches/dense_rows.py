"""Launches of `kernels/csrc/dense_rows.cu`: the dense parts of a decode step of up to 64 rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.split_product import (
    LinearAddresses,
    SplitProduct,
    Workspace,
    check_matrix,
    product_launch,
)

MAX_ROWS = 64

DenseKind = Literal["linear", "gelu", "logits", "residual"]
"""What stands behind the product: nothing (half), GELU (half), nothing (float32), or x += it (float32)."""

_SIZES = (16, 32, 64)  # rows that the kernels are compiled for
_OUTPUTS = 64
_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class DenseRows(SplitProduct):
    """How one matrix is multiplied with at most `MAX_ROWS` rows.

    Attributes
    ----------
    chunks_of_split : chunks of 128 k that each split takes (the last maybe fewer).
    """

    TILE = _OUTPUTS

    chunks_of_split: int

    @property
    def size(self) -> int:
        """Rows that the kernel is compiled for."""
        return next(size for size in _SIZES if self.rows <= size)

    @property
    def partial_bytes(self) -> int:
        """Workspace for partial sums. Its contents don't matter, and one serves all kernels of a stream."""
        return self.tiles * self.splits * self.size * _OUTPUTS * 4 if self.splits > 1 else 0


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
    check_matrix("dense_rows", outputs, inputs)
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
    return product_launch(
        f"dense_rows_{kind}_{plan.size}",
        plan,
        layer,
        workspace,
        plan.chunks_of_split,
        np.uint64(activations),
        np.uint64(out),
        shared_bytes=16 + plan.size * 640,
    )
