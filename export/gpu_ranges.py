"""Which layers of a VQGAN make values that FP16 can't hold, found by running them in float32 on extreme inputs.

FP16 ends at 65504. A layer is kept wider where any value that it reads or makes comes within `MARGIN` of that, on
pictures of the training size. For an encoder: black, white, grey, a chessboard of pixels, noise and a smooth picture.
For a decoder: the entry of largest norm everywhere, that entry and its opposite in a chessboard and in stripes, and
random entries.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from trt_vqgan.export.autoencoder_graph import codebook_key
from trt_vqgan.export.gpu_autoencoder import GpuLayerWriter, decoder_layers, encoder_layers
from trt_vqgan.export.graph_builder import ArraySource
from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.spec import AutoencoderSpec

HALF_MAX = 65504.0
MARGIN = 8.0
"""Other pictures may have larger values than these. Measured on the trained demo: no layer's largest value in 20 drawn
pictures is above 1.84 times that of the extreme ones."""


def wide_encoder_layers(spec: AutoencoderSpec, weights: Mapping[str, ArraySource]) -> tuple[str, ...]:
    """Return the layers of an encoder that need float32, in their order; most often none."""
    layers, _ = encoder_layers(spec, weights, dtype="fp32", wider=())
    return _beyond_half(_largest(layers, "image", extreme_maps(spec)))


def wide_decoder_layers(spec: AutoencoderSpec, weights: Mapping[str, ArraySource]) -> tuple[str, ...]:
    """Return the layers of a decoder that need float32, in their order; most often none."""
    codebook = np.asarray(weights[codebook_key(spec)], dtype=np.float32)
    layers, _ = decoder_layers(spec, weights, dtype="fp32", wider=())
    return _beyond_half(_largest(layers, "latents", codebook[extreme_codes(codebook, spec.latent_size)]))


def extreme_codes(codebook: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """Return code grids int64 (4, side, side) of a codebook (N, D): one code, a chessboard, stripes, random."""
    largest = int(np.linalg.norm(codebook, axis=1).argmax())
    opposite = int((codebook @ codebook[largest]).argmin())
    rows, columns = np.mgrid[:side, :side]
    return np.stack(
        [
            np.full((side, side), largest),
            np.where((rows + columns) % 2, largest, opposite),
            np.where(columns % 2, largest, opposite),
            np.random.default_rng(0).integers(0, len(codebook), (side, side)),
        ]
    )


def extreme_maps(spec: AutoencoderSpec) -> NDArray[np.float32]:
    """Return what an encoder may read, float32 (6, C, H, W) in [-1, 1]; labels are one-hot."""
    channels, side = spec.in_channels, spec.resolution
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    board = (rows + columns) % 2
    if spec.modality == "segmentation":
        fields = [np.full((side, side), label) for label in (0, channels - 1)]
        fields += [board * (channels - 1), rng.integers(0, channels, (side, side))]
        maps = [(field[None] == np.arange(channels)[:, None, None]).astype(np.float32) for field in fields]
    else:
        maps = [np.full((channels, side, side), level, np.float32) for level in (-1, 0, 1)]
        maps += [np.broadcast_to(2 * board - 1, (channels, side, side)).astype(np.float32)]
        maps += [rng.uniform(-1, 1, (channels, side, side)).astype(np.float32)]
    return np.stack([*maps, sample_map(spec, side)[0]])


def _beyond_half(largest: dict[str, float]) -> tuple[str, ...]:
    return tuple(name for name, value in largest.items() if not value <= HALF_MAX / MARGIN)


def _largest(layers: GpuLayerWriter, name: str, inputs: NDArray[np.float32]) -> dict[str, float]:
    """Return, for each layer, the largest absolute value that it reads or makes; inputs run one by one."""
    graph = layers.graph
    owners: list[str] = []
    for layer, values in layers.values.items():
        for value in dict.fromkeys(values):
            for op in ("ReduceMax", "ReduceMin"):
                graph.output(f"{op}_{len(owners)}", np.float32, [], graph.node(op, [value], keepdims=0))
                owners.append(layer)
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(owners, 0.0)
    for picture in inputs:
        for owner, value in zip(owners, session.run(None, {name: picture[None]}), strict=True):
            # of a NaN and a number Python's max returns either: a NaN must win
            largest[owner] = float(np.maximum(largest[owner], abs(value)))
    return largest
