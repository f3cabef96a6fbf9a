"""Kernels whose results are defined to the bit, beside their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches.embed_tokens import embed_tokens as embed_launch
from trt_vqgan.kernels.launches.gather_codes import gather_codes as gather_launch
from trt_vqgan.kernels.launches.nearest_code import NearestCodePlan
from trt_vqgan.kernels.launches.pixels import pixels as pixels_launch
from trt_vqgan.kernels.packed_codebook import PackedCodebook
from trt_vqgan.kernels.reference.embed_tokens import embed_tokens
from trt_vqgan.kernels.reference.gather_codes import gather_codes
from trt_vqgan.kernels.reference.pixels import pixels

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def look_up(
    runner: KernelRunner, z: F32, packed: PackedCodebook, *, multiprocessors: int, shared_limit: int, seed: int = 1
) -> tuple[I32, I32]:
    """Return nearest codes and how many codes each took a look at, int32 (M,) both, of z (M, D)."""
    plan = NearestCodePlan(codebook=packed, rows=len(z), multiprocessors=multiprocessors, shared_limit=shared_limit)
    latents, memory = runner.place(z), runner.place(packed.memory)
    workspace = runner.place(np.full(max(1, plan.workspace_bytes), 0xFF, np.uint8))
    codes, looks = (runner.place(np.full(len(z), -7, np.int32)) for _ in range(2))
    for launch in plan.launches(
        z=int(runner.address(latents)),
        codebook=int(runner.address(memory)),
        codes=int(runner.address(codes)),
        workspace=int(runner.address(workspace)),
        looks=int(runner.address(looks)),
    ):
        runner.launch(launch, seed=seed)
    return codes, looks


def check_gather(runner: KernelRunner, rows: int, size: int, dim: int, dtype: DTypeLike) -> None:
    """Compare gather_codes with its definition."""
    rng = np.random.default_rng(rows)
    codebook = runner.place(rng.standard_normal((size, dim)).astype(dtype))
    codes = runner.place(rng.integers(0, size, rows).astype(np.int32))
    out = runner.place(np.full((rows, dim), 7, dtype))
    launch = gather_launch(
        codes=int(runner.address(codes)),
        codebook=int(runner.address(codebook)),
        out=int(runner.address(out)),
        rows=rows,
        size=size,
        entry_bytes=codebook[0].nbytes,
    )
    runner.launch(launch, seed=1)
    np.testing.assert_array_equal(out, gather_codes(codes, codebook))
    np.testing.assert_array_equal(out, codebook[codes])


def random_planes(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.floating[Any]]:
    """Return planes (B, C, H, W) with the edges between grey levels among them."""
    rng = np.random.default_rng(shape[-1])
    planes = rng.uniform(-1.3, 1.3, shape)
    flat = planes.reshape(-1)
    levels = (np.arange(256) / 127.5 - 1)[: flat.size]
    flat[: len(levels)] = levels
    return planes.astype(dtype)


def run_pixels(runner: KernelRunner, planes: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return the kernel's pictures uint8 (B, H, W, C) of planes (B, C, H, W)."""
    batch, channels, height, width = planes.shape
    given = runner.place(planes)
    pictures = runner.place(np.full((batch, height, width, channels), 99, np.uint8))
    launch = pixels_launch(
        planes=int(runner.address(given)),
        pictures=int(runner.address(pictures)),
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        dtype=planes.dtype,
    )
    runner.launch(launch, seed=1)
    return pictures


def check_pixels(runner: KernelRunner, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Compare pixels with its definition."""
    planes = random_planes(shape, dtype)
    np.testing.assert_array_equal(run_pixels(runner, planes), pixels(planes))


def check_embedding(runner: KernelRunner, batch: int, length: int, hidden: int, tables: type[np.floating[Any]]) -> None:
    """Compare embed_tokens with its definition."""
    rng = np.random.default_rng(hidden)
    token_embedding = runner.place(rng.standard_normal((11, hidden)).astype(tables))
    position_embedding = runner.place(rng.standard_normal((9, hidden)).astype(tables))
    tokens = runner.place(rng.integers(0, 11, (batch, length)).astype(np.int32))
    positions = runner.place(rng.integers(0, 9, (batch, length)).astype(np.int32))
    wanted = np.full((batch, length, hidden), np.nan, np.float32)
    found = runner.place(wanted)
    embed_tokens(tokens, positions, token_embedding=token_embedding, position_embedding=position_embedding, out=wanted)
    plain = token_embedding[tokens].astype(np.float32) + position_embedding[positions].astype(np.float32)
    np.testing.assert_array_equal(wanted, plain)
    launch = embed_launch(
        tokens=int(runner.address(tokens)),
        positions=int(runner.address(positions)),
        token_embedding=int(runner.address(token_embedding)),
        position_embedding=int(runner.address(position_embedding)),
        out=int(runner.address(found)),
        rows=batch * length,
        hidden_size=hidden,
        tables=np.dtype(tables),
    )
    runner.launch(launch, seed=1)
    np.testing.assert_array_equal(found, wanted)
