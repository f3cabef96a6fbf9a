"""One line of a benchmark's table."""

from __future__ import annotations

import dataclasses
from typing import Any

from trt_vqgan.benchmarks.parity import Parity
from trt_vqgan.benchmarks.timings import Latency, Ratio

OURS = "trt-vqgan"
NATIVE = "native"
"""Our CPU kernels; what `OURS` runs goes through ONNX Runtime."""

TORCH = "torch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one thing.

    Attributes
    ----------
    what : "step", "prefill", "sampler", "encode", "decode", "generate", "start-up", "memory" or "window".
    model : name of the model, such as "12x768".
    runner : what ran: "trt-vqgan" (through ONNX Runtime), "native" (our CPU kernels) or "torch".
    precision : of the weights.
    batch : rows or pictures at once.
    latency : of one step, call or batch; None where no time was taken.
    rates : unit -> value, such as "codes/s" or "GB/s of weights".
    speedup : over torch in the same run; None without a baseline.
    parity : how far the results are from the reference; None for the reference itself.
    facts : anything else, by a name that carries its unit.
    """

    what: str
    model: str
    runner: str
    precision: str
    batch: int
    latency: Latency | None = None
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    speedup: Ratio | None = None
    parity: Parity | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
