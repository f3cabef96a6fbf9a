"""A codebook as the nearest_code kernels read it: centred, scaled, rounded to half, and once more in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.errors import ShapeError

TILE = 64
"""Codes that share one result of the tensor-core pass."""

TENSOR_CORE_DIMS = range(17, 513)
"""Depths that go through the tensor-core pass; others are compared in float32 throughout."""

_PASS = 128  # codes of one pass of a block: the rounded codebook is padded to them
_ALIGNMENT = 256
_PADDING_BIAS = 2.0**66  # makes a score that loses to any code's, and stays finite times 2^40

_MAX_EXPONENT = 100


@dataclass(frozen=True, kw_only=True)
class PackedCodebook:
    """One block of memory for the device, and where its parts lie.

    Attributes
    ----------
    memory : uint8, to be copied to the device as it is, aligned to 256 bytes.
    size, dim : N and D of the codebook.
    padded_dim : D of the rounded codebook, a multiple of 32 or 64 (0 where `uses_tensor_cores` is false).
    stride : codes of a row of ``transposed``.
    exponent : the rounded codebook is scaled by ``2**exponent``.
    largest_length : of the scaled, centred entries; inf if squared distances could overflow.
    transposed, centre, halves, biases, tile_lengths : offsets in ``memory``, in bytes. float32 (D, stride), NaN beyond
        the last code; float32 (D,); float16 (padded N, padded_dim); float32 (padded N,), half the squared length;
        float32 (tiles,), the largest length in each tile.
    """

    memory: NDArray[np.uint8]
    size: int
    dim: int
    padded_dim: int
    stride: int
    exponent: int
    largest_length: float
    transposed: int
    centre: int
    halves: int
    biases: int
    tile_lengths: int

    @property
    def tiles(self) -> int:
        """Results of the tensor-core pass for one latent."""
        return -(-self.size // TILE)

    @property
    def uses_tensor_cores(self) -> bool:
        """Whether this depth goes through the tensor-core pass."""
        return self.dim in TENSOR_CORE_DIMS


def pack_codebook(codebook: NDArray[np.float32]) -> PackedCodebook:
    """Return ``codebook``, float32 (N, D), for the kernels.

    Raises
    ------
    ShapeError : another rank or dtype, or no entry.

    Notes
    -----
    Entries that are not finite get a score that loses to any other, as their distances (inf or NaN) do.
    """
    if codebook.ndim != 2 or 0 in codebook.shape or codebook.dtype != np.float32:
        raise ShapeError(
            f"pack_codebook: found {codebook.dtype} {codebook.shape}, wanted float32 (N, D) with at least one entry"
        )
    size, dim = codebook.shape
    padded = -(-size // _PASS) * _PASS
    transposed = np.full((dim, padded), np.nan, np.float32)
    transposed[:, :size] = codebook.T
    parts: list[NDArray[np.generic]] = [transposed]
    exponent, largest, padded_dim = 0, math.inf, 0
    if dim in TENSOR_CORE_DIMS:
        centre, centred, usable = _centred(codebook)
        lengths = np.sqrt(np.einsum("nd,nd->n", centred, centred, dtype=np.float64, casting="same_kind"))
        biggest = float(np.abs(centred).max())
        if biggest > 0:  # to between 32 and 64, whose squares and sums are far from the limits of half and float32
            exponent = min(max(6 - math.frexp(biggest)[1], -_MAX_EXPONENT), _MAX_EXPONENT)
        # An entry that overflows when centred, or none that is finite: every row takes all codes.
        if usable.any() and bool(np.isfinite(codebook[usable] - centre).all()):
            largest = _up(float(lengths.max()) * 2.0**exponent)
        padded_dim = -(-dim // 32) * 32 if dim <= 32 else -(-dim // 64) * 64
        halves = np.zeros((padded, padded_dim), np.float16)
        with np.errstate(over="ignore"):
            halves[:size, :dim] = centred * np.float32(2.0**exponent)
        biases = np.full(padded, _PADDING_BIAS, np.float32)
        scaled = lengths * 2.0**exponent
        biases[:size][usable] = 0.5 * np.square(scaled[usable])
        tile_lengths = np.zeros(padded, np.float64)
        tile_lengths[:size] = np.where(usable, scaled, 0.0)
        by_tile = tile_lengths.reshape(-1, TILE).max(axis=1)[: -(-size // TILE)]
        parts += [centre, halves, biases, np.array([_up(length) for length in by_tile], np.float32)]
    offsets, memory = _join(parts)
    offsets += [0] * (5 - len(offsets))
    return PackedCodebook(
        memory=memory,
        size=size,
        dim=dim,
        padded_dim=padded_dim,
        stride=padded,
        exponent=exponent,
        largest_length=largest,
        transposed=offsets[0],
        centre=offsets[1],
        halves=offsets[2],
        biases=offsets[3],
        tile_lengths=offsets[4],
    )


def _centred(codebook: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the centre (D,), the entries less it (N, D), zero where not finite, and which entries are finite (N,)."""
    usable: NDArray[np.bool_] = np.asarray(np.isfinite(codebook).all(axis=1))
    centre = np.zeros(codebook.shape[1], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if usable.any():
            centre = codebook[usable].mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = codebook - centre
        centred[~np.isfinite(centred).all(axis=1)] = 0.0
    return centre, centred, usable


def _up(value: float) -> float:
    """Return a float32 that is not below ``value``."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf))) if value else 0.0


def _join(parts: list[NDArray[np.generic]]) -> tuple[list[int], NDArray[np.uint8]]:
    offsets: list[int] = []
    end = 0
    for part in parts:
        offsets.append(end)
        end += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
    memory = np.zeros(end, np.uint8)
    for offset, part in zip(offsets, parts, strict=True):
        memory[offset : offset + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    return offsets, memory
