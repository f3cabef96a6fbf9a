"""The golden models for a machine that can't export: float16 weights as a bundle has them, and the published arrays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import trt_vqgan
from trt_vqgan.manifest import segment_name
from trt_vqgan.runtime.gpu.weights import read_transformer_weights
from trt_vqgan.spec import TransformerSpec, from_dict, to_dict

ARRAYS = ("c_indices", "z_indices", "greedy_indices", "logits")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenModel:
    """A transformer and what the published code made of it in float32.

    Attributes
    ----------
    spec, tensors : the transformer, weights float16 (vectors float32) by name.
    segments : its dense parts as graphs in FP16, in order; their weights lie beside them.
    arrays : ``c_indices`` int64 (1, L), the condition; ``z_indices`` int64 (1, N) and ``logits`` float32 (1, N, V),
        predicting them; ``greedy_indices`` int64 (1, N).
    """

    name: str
    spec: TransformerSpec
    tensors: dict[str, npt.NDArray[Any]]
    segments: tuple[Path, ...]
    arrays: dict[str, npt.NDArray[Any]]


def prepare(folder: Path) -> list[str]:
    """Write every golden transformer that this tree or ../shared has to ``folder``; return their names.

    Needs torch and onnx.
    """
    from trt_vqgan.benchmarks.gpu_check.golden_pictures import write_pictures
    from trt_vqgan.export.checkpoint import open_checkpoint
    from trt_vqgan.export.gpu_transformer import write_transformer

    written = []
    for run in _runs():
        with np.load(run / "expected.npz") as arrays:
            if not set(ARRAYS) <= set(arrays.files) or run.name in written:
                continue
            kept = {name: arrays[name] for name in ARRAYS}
        checkpoint = open_checkpoint(run)
        spec = checkpoint.spec.transformer
        assert spec is not None
        place = folder / run.name
        place.mkdir(parents=True, exist_ok=True)
        write_transformer(place, spec, checkpoint.weights)
        (place / "spec.json").write_text(json.dumps(to_dict(spec)))
        np.savez(place / "expected.npz", **kept)
        write_pictures(place, run, checkpoint)
        written.append(run.name)
    return written


def read_goldens(folder: Path) -> Iterator[GoldenModel]:
    """Yield the models that `prepare` wrote."""
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        spec = from_dict(TransformerSpec, json.loads((place / "spec.json").read_text()))
        with np.load(place / "expected.npz") as arrays:
            kept = {name: arrays[name] for name in ARRAYS}
        tensors = read_transformer_weights(place / "transformer.safetensors", spec)
        segments = tuple(place / f"{segment_name(index)}.onnx" for index in range(spec.num_layers + 1))
        yield GoldenModel(name=place.name, spec=spec, tensors=tensors, segments=segments, arrays=kept)


def _runs() -> Iterator[Path]:
    root = Path(trt_vqgan.__file__).resolve().parent.parent
    for folder in (root.parent / "shared" / "golden", root / "tests" / "data" / "golden"):
        if folder.is_dir():
            yield from (path.parent for path in sorted(folder.glob("*/expected.npz")))
