"""What computes a VQGAN's two networks, as `trt_vqgan.runtime.autoencoder` sees it, and ONNX Runtime's form of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.sessions import open_session

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class Networks(Protocol):
    """Encoder and decoder of one VQGAN. Safe to call from several threads."""

    def latents(self, picture: FloatArray) -> FloatArray:
        """Return the encoder's output of one picture float32 (C, H, W) about [-1, 1].

        float32 (D, h, w), what is compared with the codebook; with Gumbel, logits (N, h, w).
        """

    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's output float32 (C, H, W) about [-1, 1] of checked codes int64 (h, w)."""

    def describe(self) -> str:
        """Return what computes, for people."""

    def close(self) -> None:
        """Give up sessions and memory; a second call does nothing."""


class OnnxNetworks:
    """A bundle's graphs through ONNX Runtime on the CPU, each opened when it is first used.

    Parameters
    ----------
    encoder, decoder : graphs; None where the bundle has none.
    threads : threads of each session's pool.
    """

    def __init__(self, *, encoder: Path | None, decoder: Path | None, threads: int) -> None:
        self._paths = {"encoder": encoder, "decoder": decoder}
        self._threads = threads
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    def latents(self, picture: FloatArray) -> FloatArray:
        """Return the encoder's output, as `Networks` says."""
        image = np.ascontiguousarray(picture[None], dtype=np.float32)
        (latents,) = self._session("encoder").run(None, {"image": image})
        found: FloatArray = latents[0]
        return found

    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's output, as `Networks` says."""
        (pixels,) = self._session("decoder").run(None, {"codes": np.ascontiguousarray(grid[None], dtype=np.int64)})
        picture: FloatArray = pixels[0]
        return picture

    def describe(self) -> str:
        """Return what computes, for people."""
        return "onnxruntime"

    def close(self) -> None:
        """Release the sessions."""
        with self._lock:
            self._sessions.clear()

    def _session(self, name: str) -> ort.InferenceSession:
        with self._lock:
            if name not in self._sessions:
                path = self._paths[name]
                if path is None:
                    raise ShapeError(f"this bundle has no {name} for such pictures")
                # no arena: activations of a whole picture are large, and few
                self._sessions[name] = open_session(path, threads=self._threads, arena=False)
            return self._sessions[name]
