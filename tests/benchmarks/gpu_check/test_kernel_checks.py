"""The checks that a GPU runs, run here: the same code, on a device whose kernels are those of the CPU shim."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.attention_case import load_for
from tests.kernels.shim.shim import ShimLibrary, load
from trt_vqgan.benchmarks.gpu_check import kernel_checks
from trt_vqgan.benchmarks.gpu_check.kernel_checks import FULL, TINY
from trt_vqgan.benchmarks.gpu_check.kernels_stage import check_kernels
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.cached_attention import HEAD_SIZES
from trt_vqgan.runtime.device.host import HostDevice

SHARED_LIMIT = 99 << 10
PICTURES = ("conv2d.cu", "conv2d_float.cu", "group_norm.cu", "picture_attention.cu", "picture_layout.cu")


@functools.cache
def libraries() -> tuple[ShimLibrary, ...]:
    """Return all kernels, as other tests compile them."""
    attention = [f"cached_attention_{part}.cu" for part in ("prefix", "step", "tokens")]
    single = (
        "dense_rows.cu",
        "dense_step.cu",
        "sample_codes.cu",
        "embed_tokens.cu",
        "gather_codes.cu",
        "pixels.cu",
        "nearest_code.cu",
    )
    return (
        load_for(40, 64, sources=attention),
        load(["layer_norm.cu", "bias.cu"]),
        *(load([source]) for source in PICTURES),
        *(load([source]) for source in single),
    )


class KernelDevice(HostDevice):
    """Host memory, with kernels."""

    multiprocessors = 6

    def launch(self, launch: Launch) -> None:
        (library,) = (each for each in libraries() if launch.kernel in each.signatures)
        library.launch(launch, seed=1)


class WithoutAKernel(KernelDevice):
    """A device that loses what one kernel does: a fault that every check of that kernel must tell."""

    def __init__(self, kernel: str) -> None:
        super().__init__()
        self._kernel = kernel

    def launch(self, launch: Launch) -> None:
        if not launch.kernel.startswith(self._kernel):
            super().launch(launch)


def found_by(device: HostDevice, folder: Path) -> list[dict[str, Any]]:
    """Return what the kernels' stage writes for a device."""
    path = folder / "records"
    check_kernels(Records(path, ceilings={}), device, shared_limit=SHARED_LIMIT, tiny=True)
    return read_records(path)


def test_every_kernel_is_checked_and_right(tmp_path: Path) -> None:
    found = found_by(KernelDevice(), tmp_path)
    assert [record for record in found if not record["ok"]] == []
    assert len(found) == len({record["name"] for record in found}) > 40


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("cached_attention", "cached_attention"),
        ("nearest_code", "nearest_code"),
        ("sample_codes", "sample_codes"),
        ("dense_step_norm_logits", "norm_logits"),
        ("dense_step_residual", "linear_residual"),
        ("dense_rows_gelu", "dense_rows gelu"),
        ("layer_norm_rows", "layer_norm"),
        ("bias_gelu", "bias_gelu"),
        ("pixels", "pixels"),
        ("gather_codes", "gather_codes"),
        ("embed_tokens", "embed_tokens"),
        ("conv2d_128x128", "conv2d half 32->128"),
        ("group_norm_apply_half_half", "group_norm float16 to float16"),
    ],
)
def test_a_kernel_that_does_nothing_is_told(kernel: str, names: str, tmp_path: Path) -> None:
    wrong = {record["name"] for record in found_by(WithoutAKernel(kernel), tmp_path) if not record["ok"]}
    named = {
        name
        for name, _ in kernel_checks.kernel_checks(TINY, multiprocessors=6, shared_limit=SHARED_LIMIT)
        if name.startswith(names)
    }
    assert wrong
    assert wrong == named


def test_a_gpu_checks_every_head_size_and_each_kernel_more_than_the_cpu() -> None:
    assert set(FULL.head_sizes) == set(HEAD_SIZES)
    counts = [
        len(list(kernel_checks.kernel_checks(extent, multiprocessors=132, shared_limit=227 << 10)))
        for extent in (TINY, FULL)
    ]
    assert counts[1] > 3 * counts[0]
