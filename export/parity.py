"""Runs a checkpoint in PyTorch and its bundle's graphs in ONNX Runtime on the same inputs, and compares."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trt_vqgan.errors import BundleError, ParityError
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.export.vqgan_modules import Autoencoder, load_autoencoder
from trt_vqgan.manifest import Manifest, bundle_folder, read_manifest, verify_files
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

FloatArray = npt.NDArray[np.float32]

GRID_CODES_LIMIT = 64
"""Side of the largest latent grid that is compared whole; larger training pictures are cropped for speed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What an output may differ by.

    Attributes
    ----------
    max_abs : largest absolute difference.
    codes : share of equal codes that is needed; None where the output is no code.
    """

    max_abs: float
    codes: float | None = None


TOLERANCES = {
    "fp32": {
        # measured on the golden checkpoints: latents 2e-5, pixels 3e-6, logits 8e-6 (their scale is about 11)
        "latents": Tolerance(max_abs=1e-3, codes=1.0),
        "pixels": Tolerance(max_abs=1e-3),
        "logits": Tolerance(max_abs=1e-3, codes=1.0),
    },
    "fp16 weights": {
        # measured on the trained landscape model: latents 6e-3, 99 % of codes, pixels 7e-3
        "latents": Tolerance(max_abs=0.05, codes=0.95),
        "pixels": Tolerance(max_abs=0.1),
    },
    "int8": {
        # measured on the trained landscape model: logits 0.25, 94 % of greedy next codes; random weights do worse
        "logits": Tolerance(max_abs=1.0, codes=0.6),
    },
    "int4": {
        # measured on the trained landscape model: logits 1.6, 65 % of greedy next codes; golden checkpoints 3.3, 62 %
        "logits": Tolerance(max_abs=8.0, codes=0.4),
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One compared output.

    Attributes
    ----------
    output : what was compared.
    max_abs, max_rel : largest absolute difference, and that over the reference's largest magnitude.
    codes_equal : whether all codes (argmax or nearest) agree; None where the output is no code.
    codes_share : share of codes that agree.
    ok : within tolerance.
    """

    output: str
    max_abs: float
    max_rel: float
    codes_equal: bool | None
    codes_share: float | None
    ok: bool


def verify_bundle(
    bundle: str | os.PathLike[str], run: str | os.PathLike[str], *, config: str | os.PathLike[str] | None = None
) -> list[ParityRow]:
    """Return one row an output of the bundle, compared with the checkpoint computed by PyTorch in float32.

    Raises
    ------
    BundleError, CheckpointError : one of the two can't be read.
    ParityError : the two are different models.
    """
    folder, manifest = bundle_folder(bundle), read_manifest(bundle)
    verify_files(folder, manifest)
    checkpoint = open_checkpoint(Path(run), config=None if config is None else Path(config))
    # which latents a Gumbel projection reads is decided at export, not stored in the checkpoint
    chosen = manifest.model.autoencoder.gumbel_input
    autoencoder = dataclasses.replace(checkpoint.spec.autoencoder, gumbel_input=chosen)
    spec = dataclasses.replace(checkpoint.spec, autoencoder=autoencoder)
    if spec != manifest.model:
        field = next(
            f.name for f in dataclasses.fields(ModelSpec) if getattr(spec, f.name) != getattr(manifest.model, f.name)
        )
        raise ParityError(f"{folder} is a bundle of another model than {run}: they differ in {field}")
    rows = _compare_autoencoder(
        folder, manifest, "", spec.autoencoder, checkpoint.weights, "first_stage.", decoder=True
    )
    condition = spec.condition
    if condition is not None and condition.autoencoder is not None:
        rows += _compare_autoencoder(
            folder, manifest, "condition_", condition.autoencoder, checkpoint.weights, "condition.", decoder=False
        )
    if spec.transformer is not None:
        rows.append(_compare_transformer(folder, manifest, spec, checkpoint.weights))
    return rows


def compare(output: str, found: FloatArray, wanted: FloatArray, tolerance: Tolerance, codes: Any = None) -> ParityRow:
    """Return the row of two arrays of one shape; ``codes`` is a pair of integer arrays to compare as well."""
    difference = float(np.abs(found.astype(np.float64) - wanted).max()) if found.size else 0.0
    scale = float(np.abs(wanted).max()) if wanted.size else 0.0
    share = None if codes is None else float((codes[0] == codes[1]).mean())
    ok = math.isfinite(difference) and difference <= tolerance.max_abs
    if share is not None and tolerance.codes is not None:
        ok = ok and share >= tolerance.codes
    return ParityRow(
        output=output,
        max_abs=difference,
        max_rel=difference / scale if scale else 0.0,
        codes_equal=None if share is None else share == 1.0,
        codes_share=share,
        ok=ok,
    )


def _compare_autoencoder(
    folder: Path, manifest: Manifest, prefix: str, spec: AutoencoderSpec, weights: Any, keys: str, *, decoder: bool
) -> list[ParityRow]:
    model = load_autoencoder(spec, weights, prefix=keys)
    side = spec.factor * min(spec.latent_size, GRID_CODES_LIMIT)
    picture = sample_map(spec, side)
    with torch.no_grad():
        latents = model.encode_latents(torch.from_numpy(picture)).numpy()
        codes = model.encode_codes(torch.from_numpy(picture)).numpy()
    found = _run(folder, manifest, f"{prefix}encoder", {"image": picture})
    precision = manifest.precision[f"{prefix}encoder"]
    rows = [
        compare(
            f"{prefix}encoder {spec.modality} latents",
            found,
            latents,
            TOLERANCES[precision]["latents"],
            (_codes_of(model, found), codes),
        )
    ]
    if decoder:
        with torch.no_grad():
            pixels = model.decode_codes(torch.from_numpy(codes)).numpy()
        made = _run(folder, manifest, "decoder", {"codes": codes})
        rows.append(compare("decoder pixels", made, pixels, TOLERANCES[manifest.precision["decoder"]]["pixels"]))
    return rows


def _codes_of(model: Autoencoder, latents: FloatArray) -> npt.NDArray[np.int64]:
    with torch.no_grad():
        codes: npt.NDArray[np.int64] = model.quantize.codes(torch.from_numpy(latents)).numpy()
    return codes


def _compare_transformer(folder: Path, manifest: Manifest, spec: ModelSpec, weights: Any) -> ParityRow:
    transformer, condition = spec.transformer, spec.condition
    assert transformer is not None
    assert condition is not None
    length = min(condition.num_tokens + spec.num_codes - 1, transformer.max_seq_len)
    tokens = np.random.default_rng(0).integers(0, transformer.vocab_size, (1, length))
    with torch.no_grad():
        wanted = load_gpt(transformer, weights)(torch.from_numpy(tokens)).numpy()
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    sees = (j <= i) | ((i < transformer.num_unmasked) & (j < transformer.num_unmasked))
    cache = np.zeros((1, transformer.num_heads, 1, length, transformer.head_size), dtype=np.float32)
    feeds: dict[str, npt.NDArray[Any]] = {
        "tokens": tokens,
        "positions": np.arange(length)[None],
        "write_at": np.zeros(1, dtype=np.int64),
        "query_shape": np.array([1, transformer.num_heads, length, 1, transformer.head_size]),
        "mask": np.where(sees, np.float32(0), np.float32(-np.inf))[None, None, :, None, :].astype(np.float32),
        "rows": np.arange(length)[None],
    }
    for layer in range(transformer.num_layers):
        feeds[f"past_key_{layer}"] = cache
        feeds[f"past_value_{layer}"] = cache
    found = _run(folder, manifest, "transformer", feeds)
    tolerance = TOLERANCES[manifest.precision["transformer"]]["logits"]
    return compare("transformer logits", found, wanted, tolerance, (found.argmax(2), wanted.argmax(2)))


def _run(folder: Path, manifest: Manifest, graph: str, feeds: dict[str, npt.NDArray[Any]]) -> FloatArray:
    onnxruntime = importlib.import_module("onnxruntime")
    path = folder / manifest.graphs[graph].file
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # the caches here are given apart from their updates, which it would warn of
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        output: FloatArray = session.run([session.get_outputs()[0].name], feeds)[0]
    except Exception as error:  # ONNX Runtime raises a family of its own types, all of them derived from Exception
        raise BundleError(f"{path}: can't be run: {str(error).splitlines()[0]}; export the bundle again") from error
    return output
