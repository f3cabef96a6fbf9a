"""A VQGAN's networks through ONNX Runtime on the CPU, one picture at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.sessions import open_session
from trt_vqgan.runtime.single_pictures import SinglePictures
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class OnnxNetworks(SinglePictures):
    """A bundle's graphs, each opened when it is first used. `trt_vqgan.runtime.autoencoder_networks.Networks`.

    Parameters
    ----------
    spec : the VQGAN.
    codebook : float32 (N, D).
    encoder, decoder : graphs; None where the bundle has none.
    threads : threads of each session's pool.
    """

    def __init__(
        self, spec: AutoencoderSpec, *, codebook: FloatArray, encoder: Path | None, decoder: Path | None, threads: int
    ) -> None:
        super().__init__(spec, codebook=codebook)
        self._paths = {"encoder": encoder, "decoder": decoder}
        self._threads = threads
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    def latents(self, picture: FloatArray) -> FloatArray:
        """Return the encoder's output, as `SinglePictures` says."""
        (latents,) = self._session("encoder").run(None, {"image": picture[None]})
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
