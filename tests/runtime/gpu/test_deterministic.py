"""The same bits for a picture whatever runs beside it: the real kernels, on the CPU; shapes decide how products add."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.shim_device import ShimDevice, libraries
from tests.runtime.gpu.test_cuda_executor import DRAWN, SPEC, drawing, random_tensors
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.gpu.cuda_operations import DETERMINISTIC_CHUNK, CudaOperations, KernelWorkspace
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor

PREFIXES = [np.random.default_rng(i).integers(0, 61, length) for i, length in enumerate([3, 70, 1, 9, 70, 3, 17, 8, 2])]
"""Of so many tokens that they are prefilled by products and by the fused kernels, and in one chunk of 64 and two."""

LONG = dataclasses.replace(SPEC, max_seq_len=120)


class ShapedProducts(ShimDevice):
    """Products that are added in an order of their number of rows, as a library chooses its algorithm by the shape."""

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool = False) -> None:
        assert not accumulate
        rows, inner = x.shape
        cuts = [0, *range(1 + rows % 5, inner, 7 + rows % 3), inner]

        def run() -> None:
            a, b = self.view(x).astype(np.float32), self.view(weight).astype(np.float32).T
            total = np.zeros(out.shape, np.float32)
            for begin, end in itertools.pairwise(cuts):
                for row in range(rows):  # one at a time: what NumPy's own product does is up to the shape too
                    total[row] += a[row, begin:end] @ b[begin:end]
            self.view(out)[...] = total

        self._do(run)


@functools.cache
def engine(*, deterministic: bool) -> DeviceEngine:
    libraries()
    device, tensors = ShapedProducts(), random_tensors(LONG)
    return DeviceEngine(
        LONG,
        device,
        operations=CudaOperations(
            device, LONG, tensors["tok_emb.weight"], tensors["pos_emb"], deterministic=deterministic
        ),
        executor=CudaExecutor(device, LONG, tensors, deterministic=deterministic),
        share_from=1,
        deterministic=deterministic,
    )


def drawn(made: DeviceEngine, members: list[int], **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return codes (B, N), and the logits (B, V) that each was drawn from, of some pictures of `PREFIXES`."""
    device, plans, seen = made.device, made._plans, []
    assert isinstance(device, ShimDevice)
    prefixes = [PREFIXES[i] for i in members]
    if options.get("guidance_scale") is not None:
        prefixes += [np.concatenate([[0], prefix[1:]]) for prefix in prefixes]
    made._plans.clear()
    make = plans._make
    lent: list[Any] = []
    plans._make = lambda size: lent.append(make(size)) or lent[-1]

    def note(launch: Launch) -> None:
        if launch.kernel.startswith("sample_codes"):
            logits = device.view(lent[-1].logits)
            rows = [*range(len(members)), *range(len(logits) // 2, len(logits) // 2 + len(members))]
            seen.append(logits[rows[: len(prefixes)]].copy())

    device.before_launch = note
    try:
        wanted = drawing(prefixes, sampling=(DRAWN,) * len(members), pictures=np.array(members), **options)
        return made.draw(wanted), seen
    finally:
        device.before_launch = lambda launch: None
        plans._make = make


def differences(made: DeviceEngine, batches: list[list[int]], **options: Any) -> int:
    """Return how many logits of pictures in ``batches`` have other bits than those of each alone."""
    count = 0
    for members in batches:
        codes, logits = drawn(made, members, **options)
        for row, picture in enumerate(members):
            own_codes, own_logits = drawn(made, [picture], **options)
            for found, wanted in zip(logits, own_logits, strict=True):
                count += int((found[row] != wanted[0]).sum())
                if len(wanted) == 2:
                    count += int((found[row + len(members)] != wanted[1]).sum())
            if count == 0:
                np.testing.assert_array_equal(codes[row], own_codes[0])
    return count


@pytest.mark.parametrize("guidance_scale", [None, 1.5])
def test_alone_and_among_others_in_any_order(guidance_scale: float | None) -> None:
    """Alone, in batches of 3 and of 8, the other way round, beside equal ones, and in more than eight rows."""
    batches = [[4, 0, 2], [0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 8, 1, 1, 4, 6, 0, 5]]
    if guidance_scale is not None:
        batches = batches[:2]
    assert differences(engine(deterministic=True), batches, guidance_scale=guidance_scale) == 0


def test_it_is_asked_for_in_vain_otherwise() -> None:
    """Planted: the same without it. The bits do depend on the batch, so the comparison above can fail."""
    assert differences(engine(deterministic=False), [[0, 1, 2, 3, 4]]) > 0


@pytest.mark.parametrize("part", ["prefill", "dense"])
def test_each_part_is_needed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one of them as it is otherwise."""
    made = engine(deterministic=True)
    if part == "prefill":
        monkeypatch.setattr(made, "_deterministic", False)
        monkeypatch.setattr(made._forward, "_row_by_row", False)
    else:
        monkeypatch.setattr(made._executor, "_deterministic", False)
    assert differences(made, [[0, 1, 2, 3, 4, 5, 6, 7, 8] if part == "dense" else [4, 1, 6]]) > 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_attention_is_cut_alike_in_every_batch_and_cache(deterministic: bool) -> None:
    """What a cut changes is mostly rounded away, so the cut itself is looked at."""
    operations = engine(deterministic=deterministic)._operations
    chunks = set()
    for batch, tokens, capacity in ((1, 1, 64), (64, 1, 256), (1, 1, 256), (1, 70, 128), (8, 1, 1024)):
        workspace = operations.attention_workspace(batch=batch, tokens=tokens, capacity=capacity)
        assert isinstance(workspace, KernelWorkspace)
        chunks.add(workspace.plan.chunk)
        workspace.free()
    assert (chunks == {DETERMINISTIC_CHUNK}) == deterministic
