"""What every measurement is given: how to measure, and whom to tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth

if TYPE_CHECKING:
    from trt_vqgan.benchmarks.torch_baseline import TorchReference

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Settings of a run, and what its measurements share.

    Attributes
    ----------
    batches : rows at once, one measurement for each.
    threads : of every session and of torch.
    repeats : interleaved rounds.
    bandwidth : of reading memory, sampled between measurements.
    say : called with a line about each stage.
    reference : torch's modules of the model that is being measured; None without a baseline.
    """

    batches: tuple[int, ...]
    threads: int
    repeats: int
    bandwidth: ReadBandwidth
    say: Say
    reference: TorchReference | None = None
