"""Pictures from taming-transformers checkpoints: exported once to an ONNX bundle, then made without torch.

Names are loaded when they are first used, so that ``import trt_vqgan`` costs milliseconds and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt_vqgan import errors
    from trt_vqgan.export.exporter import export_checkpoint
    from trt_vqgan.runtime.pipeline import load
    from trt_vqgan.runtime.sampler import sampling_probabilities

__version__ = "0.1.0"

__all__ = ["load", "export_checkpoint", "sampling_probabilities", "errors", "__version__"]

_HOMES = {
    "load": "trt_vqgan.runtime.pipeline",
    "sampling_probabilities": "trt_vqgan.runtime.sampler",
    "export_checkpoint": "trt_vqgan.export.exporter",
}


def __getattr__(name: str) -> object:
    """Return a public name from its home module, or the submodule ``errors``."""
    if name == "errors":
        return importlib.import_module("trt_vqgan.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trt_vqgan.extras import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names beside what is already loaded."""
    return sorted({*globals(), *__all__})
