"""Where the package keeps what it compiles for a user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "TRT_VQGAN_CACHE"


def cache_folder() -> Path:
    """Return the folder of what this package keeps for a user: ``$TRT_VQGAN_CACHE``, or the system's usual place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "trt-vqgan"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-vqgan"
