"""What a decode step or a kernel must move and compute at least, and how long a device's ceilings make that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trt_vqgan.spec import TransformerSpec

HALF = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Bytes that must be read or written, and floating-point operations."""

    bytes: int = 0
    flop: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Limits of a device: bytes a second of reading, fp16 operations a second; None where not measured."""

    read: float | None
    fp16: float | None

    @classmethod
    def of(cls, measured: Mapping[str, float]) -> Ceilings:
        """Return them from a report's ceilings, GB/s and TFLOP/s."""
        read, fp16 = measured.get("read"), measured.get("fp16")
        return cls(read=None if read is None else read * 1e9, fp16=None if fp16 is None else fp16 * 1e12)

    def floor_us(self, work: Work) -> float | None:
        """Return the least time in microseconds; None where nothing that the work has was measured."""
        times = []
        if work.bytes and self.read:
            times.append(work.bytes / self.read)
        if work.flop and self.fp16:
            times.append(work.flop / self.fp16)
        return max(times) * 1e6 if times else None


def step_weight_bytes(spec: TransformerSpec) -> int:
    """Return the float16 weights that a step reads once, whatever the batch: 12 L d^2 + d V of them."""
    return HALF * (12 * spec.num_layers * spec.hidden_size**2 + spec.hidden_size * spec.vocab_size)


def step_work(spec: TransformerSpec, *, batch: int, positions: int, shared: int = 0) -> Work:
    """Return the work of one decode step.

    Parameters
    ----------
    positions : in each row's cache, those that all rows share included.
    shared : leading positions that are stored once for all rows.
    """
    position = 2 * HALF * spec.num_layers * spec.hidden_size  # key and value
    cached = position * (batch * (positions - shared) + shared)
    weights = step_weight_bytes(spec)
    attention = 4 * spec.num_layers * spec.hidden_size * positions
    return Work(bytes=weights + cached, flop=batch * (weights // HALF * 2 + attention))
