"""Models of random weights: speed doesn't depend on what weights say, so any shape can be timed without a checkpoint.

Needs the package onnx, not torch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.export.exporter import write_graphs
from trt_vqgan.export.key_shapes import expected_shapes
from trt_vqgan.export.transformer_graph import Precision, transformer_graph
from trt_vqgan.manifest import GraphFile, MadeBy, Manifest, SamplingDefaults, record_files, write_manifest
from trt_vqgan.spec import ModelSpec

FloatArray = npt.NDArray[np.float32]

TRANSFORMER_DEVIATION = 0.02
"""Of the published initialisation. Biases and positions get it too: with their published zeros, parity would not see
whether they are used."""

CODEBOOK_DEVIATION = 0.2
"""About that of a random encoder's latents, so that codes differ from place to place."""


class RandomWeights(Mapping[str, FloatArray]):
    """Weights of a model by canonical key, made from a seed each time that they are asked for; nothing is kept.

    Transformer: normal with deviation 0.02. Convolutions: normal with deviation (3 x inputs)^-1/2, that of the
    published uniform initialisation, so that activations keep their size through the layers. Norms: 1 and 0.
    """

    def __init__(self, spec: ModelSpec, *, seed: int = 0) -> None:
        self._shapes = expected_shapes(spec)
        self._seed = seed

    def __getitem__(self, key: str) -> FloatArray:
        shape = self._shapes[key]
        if _is_norm(key):
            return np.full(shape, 1.0 if key.endswith(".weight") else 0.0, dtype=np.float32)
        values = np.random.default_rng([self._seed, zlib.crc32(key.encode())]).standard_normal(shape, dtype=np.float32)
        values *= np.float32(self._deviation(key, shape))
        return values

    def __contains__(self, key: object) -> bool:
        return key in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _deviation(self, key: str, shape: tuple[int, ...]) -> float:
        if key.startswith("transformer."):
            return TRANSFORMER_DEVIATION
        if ".quantize.embed" in key:
            return CODEBOOK_DEVIATION
        kernel = self._shapes[key.removesuffix(".bias") + ".weight"] if key.endswith(".bias") else shape
        return 1 / math.sqrt(3 * math.prod(kernel[1:]))


def write_transformer(folder: Path, spec: ModelSpec, weights: Mapping[str, FloatArray], *, precision: str) -> Path:
    """Write ``transformer.onnx`` alone into ``folder`` and return its path."""
    assert spec.transformer is not None
    graph = transformer_graph(spec.transformer, weights, precision=cast(Precision, precision))
    return graph.save(folder / "transformer.onnx")[0]


def write_autoencoder(folder: Path, spec: ModelSpec, weights: Mapping[str, FloatArray], *, precision: str) -> None:
    """Write the graphs and the codebook of the VQGAN alone into ``folder``."""
    write_graphs(folder, ModelSpec(autoencoder=spec.autoencoder), weights, precision=precision)


def write_random_manifest(folder: Path, spec: ModelSpec, *, precision: str) -> None:
    """Write the manifest of what the two functions above have written, which makes ``folder`` a bundle."""
    vqgan = "fp32" if precision == "fp32" else "fp16 weights"
    manifest = Manifest(
        model=spec,
        graphs={
            "encoder": GraphFile(file="encoder.onnx"),
            "decoder": GraphFile(file="decoder.onnx"),
            "transformer": GraphFile(file="transformer.onnx", data_file="transformer.onnx.data"),
        },
        files=record_files(folder),
        made_by=MadeBy(version=trt_vqgan.__version__, checkpoint="random weights", checkpoint_sha256="0" * 64),
        precision={"encoder": vqgan, "decoder": vqgan, "transformer": precision},
        sampling=SamplingDefaults(top_k=max(1, min(250, spec.autoencoder.codebook_size // 4))),
        provenance="random weights, for measuring speed",
    )
    write_manifest(folder, manifest)


def _is_norm(key: str) -> bool:
    """Whether a key belongs to a LayerNorm or GroupNorm: ln1, ln2, ln_f, norm, norm1, norm2, norm_out."""
    return key.split(".")[-2].startswith(("ln", "norm"))
