"""Launches of `kernels/csrc/dense_step.cu`: the dense parts of a decode step of at most eight rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.split_product import (
    THREADS,
    LinearAddresses,
    SplitProduct,
    Workspace,
    check_matrix,
    product_launch,
)
from trt_vqgan.kernels.packing import BLOCK_INPUTS, TILE_OUTPUTS

MAX_ROWS = 8

WARPS = THREADS // 32

_SLOT_BYTES = TILE_OUTPUTS * MAX_ROWS * 4
_FIXED_SHARED_BYTES = 80 + WARPS * 32 * 16
_MAX_SHARED_BYTES = 48 << 10  # what a block has without asking for more


@dataclass(frozen=True, kw_only=True)
class DenseStep(SplitProduct):
    """How one matrix is multiplied with at most `MAX_ROWS` rows.

    Attributes
    ----------
    blocks_of_split : tiles of 32 k that each split takes (the last maybe fewer).
    norm_shift : 2^norm_shift of the eight warps sum one row in a layer norm.
    """

    TILE = TILE_OUTPUTS

    blocks_of_split: int
    norm_shift: int

    @property
    def partial_bytes(self) -> int:
        """Workspace for partial sums. Its contents don't matter, and one serves all kernels of a stream."""
        return self.tiles * self.splits * _SLOT_BYTES if self.splits > 1 else 0

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return _FIXED_SHARED_BYTES + _activation_bytes(self.rows, self.blocks_of_split)


def plan_dense_step(
    *, outputs: int, inputs: int, rows: int, multiprocessors: int, same_bits: bool = False
) -> DenseStep:
    """Return how to multiply W (N, K) with ``rows`` rows.

    A row's sums are added in an order that its own numbers don't decide but the plan does. With ``same_bits`` it is
    that of `MAX_ROWS` rows whatever ``rows`` is: a row's results are then the same beside any others.

    K is split where tiles of outputs alone would leave a multiprocessor without a block, as long as a warp keeps two
    tiles of 32 k; and where the activations need more than 48 KB of shared memory. Not more: one block keeps as much in
    flight as a multiprocessor's share of the bandwidth asks for, and merging splits takes about a microsecond.

    Raises
    ------
    ShapeError
        For a number of rows that isn't 1 to `MAX_ROWS`, or a K that isn't a multiple of 8.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ShapeError(
            f"dense_step: found {rows} rows, wanted 1 to {MAX_ROWS}; more rows are a matrix product's work"
        )
    check_matrix("dense_step", outputs, inputs)
    blocks = -(-inputs // BLOCK_INPUTS)
    tiles = -(-outputs // TILE_OUTPUTS)
    splits = min(-(-multiprocessors // tiles), max(1, blocks // (2 * WARPS)))
    blocks_of_split = -(-blocks // splits)
    like = MAX_ROWS if same_bits else rows
    while _FIXED_SHARED_BYTES + _activation_bytes(like, blocks_of_split) > _MAX_SHARED_BYTES:
        blocks_of_split = -(-blocks_of_split // 2)
    return DenseStep(
        outputs=outputs,
        inputs=inputs,
        rows=rows,
        splits=-(-blocks // blocks_of_split),  # none is empty
        blocks_of_split=blocks_of_split,
        norm_shift=3 - (like - 1).bit_length(),
    )


@dataclass(frozen=True, kw_only=True)
class NormAddresses:
    """Where gain and bias, float32 (K,), of a layer norm lie, aligned to 16 bytes; and its epsilon."""

    gain: int
    bias: int
    epsilon: float = 1e-5


def norm_linear(
    plan: DenseStep, *, layer: LinearAddresses, norm: NormAddresses, workspace: Workspace, x: int, out: int
) -> Launch:
    """Return the launch of `trt_vqgan.kernels.reference.dense_step.norm_linear`: x float32 (R, K), out half (R, N)."""
    return _launch("dense_step_norm", plan, layer, workspace, *_normalised(plan, x, norm), np.uint64(out))


def norm_linear_gelu(
    plan: DenseStep, *, layer: LinearAddresses, norm: NormAddresses, workspace: Workspace, x: int, out: int
) -> Launch:
    """Return the launch of `trt_vqgan.kernels.reference.dense_step.norm_linear_gelu`: out half (R, N)."""
    return _launch("dense_step_norm_gelu", plan, layer, workspace, *_normalised(plan, x, norm), np.uint64(out))


def norm_logits(
    plan: DenseStep, *, layer: LinearAddresses, norm: NormAddresses, workspace: Workspace, x: int, out: int
) -> Launch:
    """Return the launch of `trt_vqgan.kernels.reference.dense_step.norm_logits`: out float32 (R, N)."""
    return _launch("dense_step_norm_logits", plan, layer, workspace, *_normalised(plan, x, norm), np.uint64(out))


def linear_residual(
    plan: DenseStep, *, layer: LinearAddresses, workspace: Workspace, activations: int, x: int
) -> Launch:
    """Return the launch of `trt_vqgan.kernels.reference.dense_step.linear_residual`.

    ``activations`` half (R, K), ``x`` float32 (R, N), changed in place.
    """
    return _launch("dense_step_residual", plan, layer, workspace, np.uint64(activations), np.uint64(x))


def _normalised(plan: DenseStep, x: int, norm: NormAddresses) -> tuple[np.generic, ...]:
    addresses = np.uint64(x), np.uint64(norm.gain), np.uint64(norm.bias)
    return *addresses, np.float32(norm.epsilon), np.int32(plan.norm_shift)


def _launch(
    kernel: str, plan: DenseStep, layer: LinearAddresses, workspace: Workspace, *arguments: np.generic
) -> Launch:
    return product_launch(
        kernel, plan, layer, workspace, plan.blocks_of_split, *arguments, shared_bytes=plan.shared_bytes
    )


def _activation_bytes(rows: int, blocks: int) -> int:
    return rows * (blocks | 1) * BLOCK_INPUTS * 2
