"""Pictures from taming-transformers checkpoints: export to ONNX bundles, generate without torch."""

from __future__ import annotations

__version__ = "0.1.0"
