"""The attention kernels under the shim: compiled for a few head sizes, with planted faults, in the package's cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.kernels.shim.shim import CSRC, ShimLibrary, device_array, load
from trt_vqgan.benchmarks.kernel_cases import attention
from trt_vqgan.kernels.launches.cached_attention import AttentionPlan

ATTENTION = tuple(f"cached_attention_{part}.cu" for part in ("prefix", "step", "tokens"))
SMALL_HEADS = (16, 24, 32)


def load_small_heads() -> ShimLibrary:
    """Return all attention kernels for `SMALL_HEADS`: those of the golden models and of small models of tests."""
    return load_for(*SMALL_HEADS, sources=ATTENTION)


def load_for(*head_sizes: int, sources: Sequence[str | Path]) -> ShimLibrary:
    """Return the kernels of ``sources`` for some head sizes only, which compile sooner."""
    return load(sources, defines=[f"FOR_EACH_HEAD_SIZE(instance)={' '.join(f'instance({d})' for d in head_sizes)}"])


def with_fault(
    folder: Path, source: str, right: str, wrong: str, *, head_size: int, queries: int = 16, beside: Sequence[str] = ()
) -> ShimLibrary:
    """Return the kernels of ``source`` and of those ``beside`` it for one head size, with a planted fault.

    The only occurrence of ``right`` in ``source`` or a header of its own is made ``wrong``. Of the kernels for several
    tokens, which compile slowly, only those for ``queries`` are there.
    """
    text = (CSRC / source).read_text()
    while include := re.search(r'#include "(cached_attention\w*\.cuh)"', text):
        text = text.replace(include[0], (CSRC / include[1]).read_text().replace("#pragma once", ""))
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times in {source}"
    text = text.replace(f"TOKENS_KERNEL({80 - queries}, head_size)", "")
    path = folder / source
    path.write_text(text.replace(right, wrong))
    return load_for(head_size, sources=[path, *beside])


class AttentionCase(attention.AttentionCase):
    """`trt_vqgan.benchmarks.kernel_cases.attention.AttentionCase` in memory that the address sanitizer watches."""

    def __init__(
        self, plan: AttentionPlan, lengths: list[int], *, group: list[int] | None = None, seed: int = 0
    ) -> None:
        super().__init__(plan, lengths, place=device_array, group=group, seed=seed)
