"""Runs a checkpoint in PyTorch and its bundle's graphs in ONNX Runtime on the same inputs, and compares.

Those for GPUs, where a bundle has them, too: `gpu_parity`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trt_vqgan.errors import BundleError, ParityError
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.export.gpu_parity import GpuParity
from trt_vqgan.export.gpu_ranges import extreme_codes
from trt_vqgan.export.parity_rows import ParityRow, Tolerance, compare
from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.export.vqgan_modules import Autoencoder, load_autoencoder
from trt_vqgan.manifest import Manifest, bundle_folder, read_manifest, verify_files
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

FloatArray = npt.NDArray[np.float32]

GRID_CODES_LIMIT = 64
"""Side of the largest latent grid that is compared whole; larger training pictures are cropped for speed."""


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
    on_gpu = None if manifest.gpu is None else GpuParity(folder, manifest.gpu)
    rows = _compare_autoencoder(
        folder, manifest, "", spec.autoencoder, checkpoint.weights, "first_stage.", decoder=True, on_gpu=on_gpu
    )
    condition = spec.condition
    if condition is not None and condition.autoencoder is not None:
        rows += _compare_autoencoder(
            folder,
            manifest,
            "condition_",
            condition.autoencoder,
            checkpoint.weights,
            "condition.",
            decoder=False,
            on_gpu=on_gpu,
        )
    if spec.transformer is not None:
        rows += _compare_transformer(folder, manifest, spec, checkpoint.weights, on_gpu=on_gpu)
    return sorted(rows, key=lambda row: row.output.startswith("gpu "))  # stable: those for GPUs behind the others


def _compare_autoencoder(
    folder: Path,
    manifest: Manifest,
    prefix: str,
    spec: AutoencoderSpec,
    weights: Any,
    keys: str,
    *,
    decoder: bool,
    on_gpu: GpuParity | None,
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
    codebook = model.quantize.codebook.detach().numpy()
    if on_gpu is not None:
        rows.append(on_gpu.encoder(f"{prefix}encoder", spec, picture, latents, codes, codebook))
    if decoder:
        with torch.no_grad():
            pixels = model.decode_codes(torch.from_numpy(codes)).numpy()
        made = _run(folder, manifest, "decoder", {"codes": codes})
        rows.append(compare("decoder pixels", made, pixels, TOLERANCES[manifest.precision["decoder"]]["pixels"]))
        if on_gpu is not None:
            extreme = extreme_codes(codebook, codes.shape[-1])
            with torch.no_grad():
                others = [model.decode_codes(torch.from_numpy(each[None])).numpy() for each in extreme]
            rows += on_gpu.decoder(np.concatenate([codes, extreme]), np.concatenate([pixels, *others]), codebook)
    return rows


def _codes_of(model: Autoencoder, latents: FloatArray) -> npt.NDArray[np.int64]:
    with torch.no_grad():
        codes: npt.NDArray[np.int64] = model.quantize.codes(torch.from_numpy(latents)).numpy()
    return codes


def _compare_transformer(
    folder: Path, manifest: Manifest, spec: ModelSpec, weights: Any, *, on_gpu: GpuParity | None
) -> list[ParityRow]:
    transformer, condition = spec.transformer, spec.condition
    assert transformer is not None
    assert condition is not None
    length = min(condition.num_tokens + spec.num_codes - 1, transformer.max_seq_len)
    tokens = np.random.default_rng(0).integers(0, transformer.vocab_size, (1, length))
    with torch.no_grad():
        gpt = load_gpt(transformer, weights)
        wanted = gpt(torch.from_numpy(tokens)).numpy()
        tables = gpt.tok_emb.weight.detach().numpy(), gpt.pos_emb.detach().numpy().reshape(-1, transformer.hidden_size)
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
    rows = [compare("transformer logits", found, wanted, tolerance, (found.argmax(2), wanted.argmax(2)))]
    if on_gpu is not None:
        rows.append(on_gpu.transformer(transformer, tokens, wanted, tables))
    return rows


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
