"""Launches of nearest_code: which kernels a codebook's depth takes, in what chunks, and their workspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.packed_codebook import PackedCodebook

_ROWS_AT_ONCE = 16384  # so that a chunk's scores stay in the L2 cache
_ALIGNMENT = 256
_PASS = 128


@dataclass(frozen=True, kw_only=True)
class NearestCodePlan:
    """How the latents of one shape are looked up in one codebook.

    Parameters
    ----------
    codebook : from `trt_vqgan.kernels.packed_codebook.pack_codebook`.
    rows : M, the number of latents.
    multiprocessors : of the device; chooses in how many parts the codebook is split.
    shared_limit : dynamic shared memory that a block may have, in bytes (sm_86, 89, 120: 101376).

    Raises
    ------
    ShapeError : no rows.
    """

    codebook: PackedCodebook
    rows: int
    multiprocessors: int
    shared_limit: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ShapeError(f"nearest_code: found {self.rows} latents, wanted at least one")

    @property
    def workspace_bytes(self) -> int:
        """Device memory that `launches` needs, aligned to 256 bytes; its contents don't matter before and after."""
        return self._workspace()[-1]

    def launches(self, *, z: int, codebook: int, codes: int, workspace: int, looks: int = 0) -> tuple[Launch, ...]:
        """Return what computes codes int32 (M,), to be launched in this order.

        Parameters
        ----------
        z, codebook, codes, workspace : addresses on the device: latents float32 (M, D), the packed codebook's
            memory, the result.
        looks : int32 (M,) that takes how many codes of each latent could be nearest, or 0; tensor-core depths only.
        """
        packed = self.codebook
        if not packed.uses_tensor_cores:
            return (self._exact(z, codebook, codes),)
        halves, lengths, exponents, results, _ = (workspace + offset for offset in self._workspace())
        made: list[Launch] = []
        for first in range(0, self.rows, _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, self.rows - first)
            values = z + 4 * first * packed.dim
            made.append(self._rows(values, codebook, halves, lengths, exponents, rows))
            made.append(self._tiles(codebook, halves, exponents, results, rows))
            made.append(
                Launch(
                    kernel="nearest_code_settle",
                    grid=(-(-rows // 8), 1, 1),
                    block=(256, 1, 1),
                    shared_bytes=8 * 64 * 4,
                    arguments=(
                        np.uint64(values),
                        np.uint64(codebook + packed.transposed),
                        np.uint64(results),
                        np.uint64(codebook + packed.tile_lengths),
                        np.uint64(lengths),
                        np.uint64(exponents),
                        np.uint64(codes + 4 * first),
                        np.uint64(looks + 4 * first if looks else 0),
                        np.int32(rows),
                        np.int32(packed.dim),
                        np.int32(packed.tiles),
                        np.int32(packed.stride),
                        np.int32(packed.exponent),
                        np.float32(packed.largest_length),
                    ),
                )
            )
        return tuple(made)

    def _workspace(self) -> tuple[int, ...]:
        """Return the offsets of halves, lengths, exponents and results, and the end."""
        packed = self.codebook
        if not packed.uses_tensor_cores:
            return (0, 0, 0, 0, 0)
        rows = min(self.rows, _ROWS_AT_ONCE)
        sizes = (
            rows * packed.padded_dim * 2,
            rows * 4,
            rows * 4,
            rows * packed.tiles * 8,
        )
        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        return tuple(offsets)

    def _exact(self, z: int, codebook: int, codes: int) -> Launch:
        packed = self.codebook
        shared_bytes = packed.dim * 8 * 4 + 8 * 8 * 8
        if shared_bytes > self.shared_limit:
            raise self._too_deep(shared_bytes)
        return Launch(
            kernel="nearest_code_exact",
            grid=(-(-self.rows // 8), 1, 1),
            block=(256, 1, 1),
            shared_bytes=shared_bytes,
            arguments=(
                np.uint64(z),
                np.uint64(codebook + packed.transposed),
                np.uint64(codes),
                np.int32(self.rows),
                np.int32(packed.dim),
                np.int32(packed.size),
                np.int32(packed.stride),
            ),
        )

    def _rows(self, z: int, codebook: int, halves: int, lengths: int, exponents: int, rows: int) -> Launch:
        packed = self.codebook
        return Launch(
            kernel="nearest_code_rows",
            grid=(-(-rows // 8), 1, 1),
            block=(256, 1, 1),
            shared_bytes=0,
            arguments=(
                np.uint64(z),
                np.uint64(codebook + packed.centre),
                np.uint64(halves),
                np.uint64(lengths),
                np.uint64(exponents),
                np.int32(rows),
                np.int32(packed.dim),
                np.int32(packed.padded_dim),
                np.int32(packed.exponent),
            ),
        )

    def _tiles(self, codebook: int, halves: int, exponents: int, results: int, rows: int) -> Launch:
        packed = self.codebook
        kernel, block_rows, shared_bytes = self._tile_kernel()
        row_blocks, passes = -(-rows // block_rows), -(-packed.size // _PASS)
        # two blocks a multiprocessor, but no block without a pass
        wanted = max(1, min(passes, 2 * self.multiprocessors // row_blocks))
        passes_per_block = -(-passes // wanted)
        return Launch(
            kernel=kernel,
            grid=(row_blocks, -(-passes // passes_per_block), 1),
            block=(block_rows, 1, 1),
            shared_bytes=shared_bytes,
            arguments=(
                np.uint64(halves),
                np.uint64(exponents),
                np.uint64(codebook + packed.halves),
                np.uint64(codebook + packed.biases),
                np.uint64(results),
                np.int32(rows),
                np.int32(packed.padded_dim),
                np.int32(packed.tiles),
                np.int32(passes_per_block),
                np.int32(packed.exponent),
            ),
        )

    def _tile_kernel(self) -> tuple[str, int, int]:
        """Return name, rows of a block and shared bytes of the fastest kernel that fits this depth and device."""
        dim = self.codebook.padded_dim
        if dim == 32:
            kernels = [("nearest_code_tiles_32", 32, 128, 4)]
        else:
            kernels = [("nearest_code_tiles_64_narrow", 64, 64, 2)]
            if dim <= 256:
                kernels = [
                    ("nearest_code_tiles_64", 64, 128, 3),
                    ("nearest_code_tiles_64_two_stages", 64, 128, 2),
                    *kernels,
                ]
        for name, columns, rows, stages in kernels:
            shared_bytes = rows * dim * 2 + stages * _PASS * columns * 2 + rows * 4
            if shared_bytes <= self.shared_limit:
                return name, rows, shared_bytes
        raise self._too_deep(shared_bytes)

    def _too_deep(self, shared_bytes: int) -> ShapeError:
        return ShapeError(
            f"nearest_code: a depth of {self.codebook.dim} takes {shared_bytes} bytes of shared memory a block, this "
            f"device has {self.shared_limit}"
        )
