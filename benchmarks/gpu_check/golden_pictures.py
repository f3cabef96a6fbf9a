"""The golden VQGANs for a machine that can't export: their graphs for GPUs, and what the published code made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.spec import AutoencoderSpec, from_dict, to_dict

if TYPE_CHECKING:
    from trt_vqgan.export.checkpoint import Checkpoint

ARRAYS = ("image", "z_indices", "reconstruction")
_SPEC, _CODEBOOK, _ARRAYS = "autoencoder.json", "codebook.npy", "pictures.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GoldenPictures:
    """A VQGAN, and what the published code made with it in float32.

    Attributes
    ----------
    graphs : "encoder" and "decoder" in FP16.
    codebook : float32 (N, D).
    image : uint8 (H, W, 3); its codes int64 (1, h w), and the picture of those uint8 (1, H, W, 3).
    """

    name: str
    spec: AutoencoderSpec
    graphs: dict[Any, Path]
    codebook: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.int64]
    reconstruction: npt.NDArray[np.uint8]


def write_pictures(place: Path, run: Path, checkpoint: Checkpoint) -> None:
    """Write the VQGAN of a golden checkpoint beside its transformer. Needs onnx."""
    from trt_vqgan.export.autoencoder_graph import codebook_key
    from trt_vqgan.export.gpu_autoencoder import gpu_decoder_graph, gpu_encoder_graph
    from trt_vqgan.export.prefixed import Prefixed

    spec, weights = checkpoint.spec.autoencoder, Prefixed(checkpoint.weights, "first_stage.")
    (place / "encoder.onnx").write_bytes(gpu_encoder_graph(spec, weights).SerializeToString())
    (place / "decoder.onnx").write_bytes(gpu_decoder_graph(spec, weights).SerializeToString())
    np.save(place / _CODEBOOK, np.asarray(weights[codebook_key(spec)], dtype=np.float32))
    with np.load(run / "expected.npz") as arrays:
        np.savez(place / _ARRAYS, **{name: arrays[name] for name in ARRAYS})
    (place / _SPEC).write_text(json.dumps(to_dict(spec)))


def read_pictures(folder: Path) -> Iterator[GoldenPictures]:
    """Yield the VQGANs that `write_pictures` wrote below ``folder``."""
    for path in sorted(folder.glob(f"*/{_SPEC}")):
        place = path.parent
        with np.load(place / _ARRAYS) as arrays:
            image, codes, reconstruction = (arrays[name] for name in ARRAYS)
        yield GoldenPictures(
            name=place.name,
            spec=from_dict(AutoencoderSpec, json.loads(path.read_text()), str(path)),
            graphs={name: place / f"{name}.onnx" for name in ("encoder", "decoder")},
            codebook=np.load(place / _CODEBOOK),
            image=image,
            codes=codes,
            reconstruction=reconstruction,
        )
