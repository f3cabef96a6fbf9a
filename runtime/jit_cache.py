"""What TensorRT-RTX compiles for a GPU when an engine runs, kept between processes.

An engine of TensorRT-RTX is finished on the GPU that it runs on. The result of one engine on one kind of GPU is a file
of the cache folder, ``tensorrt_rtx/ENGINE-GPU.jit``. It saves time and nothing else: where it can't be read, isn't of
this driver or can't be written, that is said, and the kernels are compiled again.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.cache_folder import cache_folder

KEPT_FILES = 256
"""The newest are kept. A model has a file a layer, and three more."""

log = logging.getLogger("trt_vqgan.jit_cache")


class JitCache:
    """The file of one engine on one kind of GPU, and TensorRT-RTX's object of what is in it.

    Parameters
    ----------
    engine_sha256 : of the serialized engine.
    gpu : name of the GPU.
    """

    def __init__(self, engine_sha256: str, gpu: str) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
        self.path = cache_folder() / "tensorrt_rtx" / f"{engine_sha256[:32]}-{name}.jit"
        self._cache: Any | None = None
        self._stored = b""

    def use_in(self, config: Any) -> None:
        """Let contexts of an ``IRuntimeConfig`` take from the cache and add to it; the CUDA context must be current."""
        if self._cache is None:
            cache = config.create_runtime_cache()
            self._stored = self._read()
            if self._stored and not cache.deserialize(self._stored):
                log.warning(
                    "%s: is of another driver or TensorRT-RTX, or damaged; kernels are compiled again", self.path
                )
                self._stored = b""
            self._cache = cache
        if not config.set_runtime_cache(self._cache):
            log.warning("TensorRT-RTX doesn't take its cache of compiled kernels; they are compiled each time")

    def save(self) -> None:
        """Write what was compiled, where that is more than was read; the CUDA context must be current."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()
        if serialized is None:
            log.warning("TensorRT-RTX doesn't give its compiled kernels; %s stays as it is", self.path)
            return
        content = bytes(serialized)
        if content == self._stored:
            return
        try:
            write_bytes(self.path, content)
            self._stored = content
            self._remove_oldest()
        except OSError as error:
            log.warning("%s: can't be written (%s); kernels are compiled again next time", self.path, error.strerror)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.warning("%s: can't be read (%s); kernels are compiled again", self.path, error.strerror)
            return b""

    def _remove_oldest(self) -> None:
        ages: dict[Path, int] = {}
        for path in self.path.parent.glob("*.jit"):
            try:
                ages[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue  # another process was first
        for path in sorted(ages, key=ages.__getitem__, reverse=True)[KEPT_FILES:]:
            path.unlink(missing_ok=True)
