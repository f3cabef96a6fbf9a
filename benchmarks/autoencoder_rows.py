"""The VQGAN: a picture to codes, codes to a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from trt_vqgan.benchmarks.arithmetic import decoder_operations, encoder_operations
from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.engines import measured_runners
from trt_vqgan.benchmarks.interleaving import Work, in_turn
from trt_vqgan.benchmarks.parity import (
    CODES_FP32,
    CODES_HALF_WEIGHTS,
    FloatArray,
    Int64Array,
    Parity,
    compare_codes,
    compare_pixels,
)
from trt_vqgan.benchmarks.rows import NATIVE, OURS, TORCH, Row
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.benchmarks.timings import latency, speedup
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.network import Precision
from trt_vqgan.runtime.native.network_library import best_instructions, open_network_library
from trt_vqgan.runtime.native.networks import NativeNetworks
from trt_vqgan.runtime.onnx_networks import OnnxNetworks
from trt_vqgan.spec import AutoencoderSpec

Contender = tuple[str, str]
"""Runner and precision."""


def encode_rows(subject: Subject, context: Context) -> list[Row]:
    """Return rows of encoding one picture of the training size, nearest codes included: ours and torch's."""
    spec = subject.spec.autoencoder
    picture = sample_picture(spec)
    reference = context.reference
    ours = {key: lambda a=a: a.encode(picture) for key, a in _open(subject, context, bf16=False).items()}
    wanted = reference.encode(picture) if reference is not None and reference.own_weights else None

    def parity(key: Contender) -> Parity | None:
        limit = CODES_FP32 if key[1] == "fp32" else CODES_HALF_WEIGHTS
        return None if wanted is None else compare_codes(ours[key](), wanted, limit=limit)

    baseline = None if reference is None else lambda: reference.encode(picture)
    operations = encoder_operations(spec)
    return _measured("encode", subject, context, ours=ours, baseline=baseline, parity=parity, operations=operations)


def decode_rows(subject: Subject, context: Context) -> list[Row]:
    """Return rows of decoding one picture of the training size to 8-bit pixels: ours and torch's."""
    spec = subject.spec.autoencoder
    codes = random_codes(spec)
    reference = context.reference
    ours = {key: lambda a=a: a.decode(codes) for key, a in _open(subject, context, bf16=True).items()}
    wanted = reference.decode(codes) if reference is not None and reference.own_weights else None

    def parity(key: Contender) -> Parity | None:
        return None if wanted is None else compare_pixels(ours[key](), wanted, precision=key[1])

    baseline = None if reference is None else lambda: reference.decode(codes)
    operations = decoder_operations(spec)
    return _measured("decode", subject, context, ours=ours, baseline=baseline, parity=parity, operations=operations)


def sample_picture(spec: AutoencoderSpec) -> FloatArray:
    """Return one noisy picture or map float32 (1, C, H, W) of the training size, in [-1, 1]; one-hot for labels."""
    rng = np.random.default_rng(0)
    side, channels = spec.resolution, spec.in_channels
    if spec.modality == "segmentation":
        labels = rng.integers(0, channels, (side, side))
        one_hot = labels[None] == np.arange(channels)[:, None, None]
        return np.asarray(one_hot[None], dtype=np.float32)
    coarse = rng.uniform(-1, 1, (1, channels, -(-side // 8), -(-side // 8)))
    picture = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, :side, :side]
    return np.ascontiguousarray(picture, dtype=np.float32)


def random_codes(spec: AutoencoderSpec) -> Int64Array:
    """Return codes int64 (1, h, w) of a picture of the training size."""
    return np.random.default_rng(0).integers(0, spec.codebook_size, (1, spec.latent_size, spec.latent_size))


def open_autoencoder(spec: AutoencoderSpec, folder: Path, *, threads: int) -> Autoencoder:
    """Return the runtime's VQGAN of the graphs in a bundle's folder."""
    codebook = np.load(folder / "codebook.npy", allow_pickle=False)
    graphs = {name: folder / f"{name}.onnx" for name in ("encoder", "decoder")}
    networks = OnnxNetworks(spec, codebook=codebook, threads=threads, **graphs)
    return Autoencoder(spec, networks=networks, codebook=codebook)


def open_native_autoencoder(
    spec: AutoencoderSpec, folder: Path, *, threads: int, decoder_precision: Precision = "fp32"
) -> Autoencoder:
    """Return the VQGAN of the graphs in a bundle's folder through our CPU kernels."""
    codebook = np.load(folder / "codebook.npy", allow_pickle=False)
    networks = NativeNetworks(
        spec,
        codebook=codebook,
        encoder=folder / "encoder.onnx",
        decoder=folder / "decoder.onnx",
        threads=threads,
        decoder_precision=decoder_precision,
    )
    return Autoencoder(spec, networks=networks, codebook=codebook)


def _open(subject: Subject, context: Context, *, bf16: bool) -> dict[Contender, Autoencoder]:
    """Return the VQGAN by engine and precision, with ``bf16`` also decoding in that where the processor can."""
    opened = {}
    spec, threads = subject.spec.autoencoder, context.threads
    runners = measured_runners(context)
    for precision in subject.precisions:
        name = subject.autoencoder_precision(precision)
        folder = subject.autoencoder(precision)
        if NATIVE in runners:
            opened[NATIVE, name] = open_native_autoencoder(spec, folder, threads=threads)
            if bf16 and best_instructions(open_network_library(built_library()), bf16=True):
                rounded = open_native_autoencoder(spec, folder, threads=threads, decoder_precision="bf16")
                opened.setdefault((NATIVE, "bf16"), rounded)  # of the widest weights, which come first
        opened[OURS, name] = open_autoencoder(spec, folder, threads=threads)
    return opened


def _measured(
    what: str,
    subject: Subject,
    context: Context,
    *,
    ours: Mapping[Contender, Work],
    baseline: Work | None,
    parity: Callable[[Contender], Parity | None],
    operations: int,
) -> list[Row]:
    context.say(f"{subject.autoencoder_name} {what}")
    keys = {" ".join(key): key for key in ours}
    contenders = ({TORCH: baseline} if baseline is not None else {}) | {name: ours[key] for name, key in keys.items()}
    seconds = in_turn(contenders, rounds=context.repeats)
    rows = []
    for name, times in seconds.items():
        runner, precision = keys.get(name, (TORCH, "fp32"))
        measured = latency(times)
        rows.append(
            Row(
                what=what,
                model=subject.autoencoder_name,
                runner=runner,
                precision=precision,
                batch=1,
                latency=measured,
                rates={
                    "pictures/s": 1e3 / measured.mean_ms,
                    "GFLOP/s": operations / (measured.mean_ms * 1e6),
                },
                speedup=speedup(seconds[TORCH], times) if name != TORCH and TORCH in seconds else None,
                parity=None if name == TORCH else parity(keys[name]),
                facts={"operations": operations},
            )
        )
    return rows
