"""What every stage is told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run, as JSON can hold them.

    Attributes
    ----------
    gpu : number of the GPU.
    goldens : folder that ``--prepare`` wrote.
    engine : a TensorRT-RTX engine to try to load; empty: one is built.
    """

    gpu: int = 0
    goldens: str = "build/gpu-check"
    engine: str = ""
