"""Opens what a pipeline runs: the networks of a bundle's VQGANs and its transformer, by the backend that was chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trt_vqgan.errors import BackendUnavailableError, BundleError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.backend_choice import ON_CPU, BackendChoice
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.onnx_networks import OnnxNetworks
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import AutoencoderSpec

if TYPE_CHECKING:
    from trt_vqgan.runtime.gpu.driver import DeviceEngine


@dataclasses.dataclass(kw_only=True)
class OpenedModels:
    """What a pipeline runs.

    Attributes
    ----------
    autoencoder : the pictures' VQGAN.
    condition_encoder : the condition's; may be the same object; None for conditions that need none.
    generator : draws codes; None for a VQGAN alone, and once closed.
    transformer : what runs the transformer, for people, beyond the backend's name; "" for nothing more.
    device_engine : the transformer's driver on a GPU; None on the CPU.
    """

    autoencoder: Autoencoder
    condition_encoder: Autoencoder | None = None
    generator: CodeGenerator | None = None
    transformer: str = ""
    device_engine: DeviceEngine | None = None

    def close(self) -> None:
        """Release sessions, weights and the GPU; a second call does nothing."""
        self.autoencoder.close()
        if self.condition_encoder is not None:
            self.condition_encoder.close()
        self.generator = None
        if self.device_engine is not None:
            self.device_engine.close()


def open_models(folder: Path, manifest: Manifest, choice: BackendChoice, *, threads: int) -> OpenedModels:
    """Return what a pipeline of this bundle runs.

    Parameters
    ----------
    folder, manifest : the bundle, already checked.
    choice : what runs the transformer, and where. Encoders and decoders run through ONNX Runtime on the CPU.
    threads : threads of each session's pool.

    Raises
    ------
    BackendUnavailableError : the choice can't run this bundle here.
    BundleError : a codebook or graph is missing or isn't what the manifest says.
    """
    spec = manifest.model
    if spec.transformer is None and choice.gpu is not None:
        raise BackendUnavailableError(
            f"backend {choice.name} on a GPU: this bundle is a VQGAN alone, which runs on the CPU; {ON_CPU}"
        )
    opened = OpenedModels(
        autoencoder=_open_autoencoder(folder, manifest, spec.autoencoder, "encoder", "decoder", "codebook", threads)
    )
    condition = spec.condition
    if condition is not None and condition.shares_first_stage:
        opened.condition_encoder = opened.autoencoder
    elif condition is not None and condition.autoencoder is not None:
        opened.condition_encoder = _open_autoencoder(
            folder, manifest, condition.autoencoder, "condition_encoder", None, "condition_codebook", threads
        )
    if spec.transformer is not None:
        _open_transformer(opened, folder, manifest, choice, threads)
    return opened


def _open_transformer(
    opened: OpenedModels, folder: Path, manifest: Manifest, choice: BackendChoice, threads: int
) -> None:
    if choice.gpu is not None:
        # not at the top: nothing of it is needed on the CPU
        from trt_vqgan.runtime.gpu.code_generator import DeviceCodeGenerator
        from trt_vqgan.runtime.gpu.opening import open_on_gpu

        opened.device_engine = open_on_gpu(choice, folder, manifest)
        opened.transformer = opened.device_engine.describe()
        opened.generator = DeviceCodeGenerator(manifest.model, opened.device_engine)
        return
    path = graph_path(folder, manifest, "transformer")
    if path is None:
        raise BundleError(f"bundle {folder}: the model has a transformer but no graph of it")
    transformer = manifest.model.transformer
    assert transformer is not None
    if choice.name != "native":
        opened.generator = CodeGenerator(manifest.model, TransformerEngine(path, transformer, threads=threads))
        return
    from trt_vqgan.runtime.native.engine import NativeEngine

    engine = NativeEngine(path, transformer, threads=threads)
    opened.transformer = engine.instructions
    opened.generator = CodeGenerator(manifest.model, engine)


def _open_autoencoder(
    folder: Path,
    manifest: Manifest,
    spec: AutoencoderSpec,
    encoder: str,
    decoder: str | None,
    codebook: str,
    threads: int,
) -> Autoencoder:
    path = folder / manifest.codebooks.get(codebook, f"{codebook}.npy")
    try:
        entries = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: can't be read ({error}); export the bundle again") from None
    wanted = (spec.codebook_size, spec.code_dim)
    if entries.shape != wanted or entries.dtype != np.float32:
        raise BundleError(f"{path}: found {entries.dtype} {entries.shape}, wanted float32 {wanted}")
    networks = OnnxNetworks(
        spec,
        codebook=entries,
        encoder=graph_path(folder, manifest, encoder),
        decoder=graph_path(folder, manifest, decoder) if decoder is not None else None,
        threads=threads,
    )
    return Autoencoder(spec, networks=networks, codebook=entries)


def graph_path(folder: Path, manifest: Manifest, name: str) -> Path | None:
    """Return where a bundle's graph lies; None where it has none of that name."""
    entry = manifest.graphs.get(name)
    return None if entry is None else folder / entry.file
