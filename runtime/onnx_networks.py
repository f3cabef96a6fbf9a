"""A VQGAN's networks through ONNX Runtime on the CPU, one picture at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.runtime.autoencoder import to_uint8
from trt_vqgan.runtime.sessions import open_session
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class OnnxNetworks:
    """A bundle's graphs, each opened when it is first used. `trt_vqgan.runtime.autoencoder_networks.Networks`.

    Pictures run one at a time: a picture's bits then can't depend on its neighbours, memory stays that of one picture,
    and a picture's convolutions fill all threads by themselves.

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
        self._spec, self._codebook = spec, codebook
        self._paths = {"encoder": encoder, "decoder": decoder}
        self._threads = threads
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._lock = threading.Lock()

    def encode(self, maps: FloatArray, codes: Int64Array) -> None:
        """Fill ``codes``, as `Networks` says."""
        for i, picture in enumerate(maps):
            image = np.ascontiguousarray(picture[None], dtype=np.float32)
            (latents,) = self._session("encoder").run(None, {"image": image})
            codes[i] = self._nearest(latents[0])

    def _nearest(self, latents: FloatArray) -> Int64Array:
        """Return codes int64 (h, w) of an encoder's output, float32 (D, h, w) or, with Gumbel, logits (N, h, w)."""
        if self._spec.quantizer == "gumbel":
            best: Int64Array = latents.argmax(axis=0)
            return best
        depth, height, width = latents.shape
        rows = np.ascontiguousarray(latents.reshape(depth, -1).T)
        return nearest_code(rows, self._codebook).reshape(height, width)

    def decode(self, codes: Int64Array, images: ImageArray) -> None:
        """Fill ``images``, as `Networks` says."""
        for image, grid in zip(images, codes, strict=True):
            image[...] = to_uint8(self.pixels(grid))

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
