"""A VQGAN's networks on the CPU through kernels/cpu, one picture at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.network import Network, Precision
from trt_vqgan.runtime.native.network_library import best_instructions, open_network_library
from trt_vqgan.runtime.native.network_program import decoder_steps, encoder_steps
from trt_vqgan.runtime.single_pictures import SinglePictures
from trt_vqgan.spec import AutoencoderSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class NativeNetworks(SinglePictures):
    """A bundle's networks, each read when it is first used. `trt_vqgan.runtime.autoencoder_networks.Networks`.

    The encoder computes in float32 always, as codes must be the same on every processor.

    Parameters
    ----------
    spec : the VQGAN.
    codebook : float32 (N, D).
    encoder, decoder : graphs with the weights; None where the bundle has none.
    threads : threads of each network.
    decoder_precision : "fp32" or "bf16", of the decoder's convolutions.
    library : as of `Network`.
    """

    def __init__(
        self,
        spec: AutoencoderSpec,
        *,
        codebook: FloatArray,
        encoder: Path | None,
        decoder: Path | None,
        threads: int,
        decoder_precision: Precision = "fp32",
        library: Path | None = None,
    ) -> None:
        super().__init__(spec, codebook=codebook)
        self.decoder_precision = decoder_precision
        self._paths = {"encoder": encoder, "decoder": decoder}
        self._threads = threads
        self._library = built_library() if library is None else library
        self._networks: dict[str, Network] = {}
        self._lock = threading.Lock()

    def latents(self, picture: FloatArray) -> FloatArray:
        """Return the encoder's output, as `SinglePictures` says."""
        return self._network("encoder").run(picture)

    def pixels(self, grid: Int64Array) -> FloatArray:
        """Return the decoder's output, as `Networks` says."""
        entries = np.ascontiguousarray(self._codebook[grid].transpose(2, 0, 1))
        return self._network("decoder").run(entries)

    def describe(self) -> str:
        """Return what computes, for people."""
        library = open_network_library(self._library)
        fp32, bf16 = (best_instructions(library, bf16=bf16) for bf16 in (False, True))
        if self._paths["decoder"] is None or self.decoder_precision == "fp32":
            return f"{fp32} fp32"
        return f"{fp32} fp32, decoding {bf16}"

    def close(self) -> None:
        """Give up the networks; those that are running end first."""
        with self._lock:
            self._networks.clear()

    def _network(self, name: str) -> Network:
        with self._lock:
            if name not in self._networks:
                path = self._paths[name]
                if path is None:
                    raise ShapeError(f"this bundle has no {name} for such pictures")
                weights = GraphWeights(path)
                steps = encoder_steps if name == "encoder" else decoder_steps
                self._networks[name] = Network(
                    steps(self._spec, has=lambda layer: f"{layer}.weight" in weights),
                    weights,
                    threads=self._threads,
                    precision="fp32" if name == "encoder" else self.decoder_precision,
                    library=self._library,
                )
            return self._networks[name]
