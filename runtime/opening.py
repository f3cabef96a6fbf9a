"""Opens what a pipeline runs: the networks of a bundle's VQGANs and its transformer, by the backend that was chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.autoencoder import Autoencoder
from trt_vqgan.runtime.autoencoder_networks import Networks
from trt_vqgan.runtime.backend_choice import BackendChoice
from trt_vqgan.runtime.bundle_vqgans import BundleVqgan, read_vqgans
from trt_vqgan.runtime.code_generator import CodeGenerator
from trt_vqgan.runtime.onnx_networks import OnnxNetworks
from trt_vqgan.runtime.transformer import TransformerEngine

if TYPE_CHECKING:
    from trt_vqgan.runtime.gpu.opening import GpuModels
    from trt_vqgan.runtime.native.network import Precision


@dataclasses.dataclass(kw_only=True)
class OpenedModels:
    """What a pipeline runs.

    Attributes
    ----------
    autoencoder : the pictures' VQGAN.
    condition_encoder : the condition's; may be the same object; None for conditions that need none.
    generator : draws codes; None for a VQGAN alone, and once closed.
    transformer : what runs the transformer, for people, beyond the backend's name; "" for nothing more.
    decoder_precision : of the decoder's arithmetic, where it isn't that of its graph; else "".
    on_gpu : what of it runs on a GPU; None on the CPU.
    """

    autoencoder: Autoencoder
    condition_encoder: Autoencoder | None = None
    generator: CodeGenerator | None = None
    transformer: str = ""
    decoder_precision: str = ""
    on_gpu: GpuModels | None = None

    def close(self) -> None:
        """Release sessions, weights and the GPU; a second call does nothing."""
        self.autoencoder.close()
        if self.condition_encoder is not None:
            self.condition_encoder.close()
        self.generator = None
        if self.on_gpu is not None:
            self.on_gpu.close()


def open_models(folder: Path, manifest: Manifest, choice: BackendChoice, *, threads: int) -> OpenedModels:
    """Return what a pipeline of this bundle runs.

    Parameters
    ----------
    folder, manifest : the bundle, already checked.
    choice : what runs it, and where.
    threads : threads of each session's pool.

    Raises
    ------
    BackendUnavailableError : the choice can't run this bundle here.
    BundleError : a codebook or graph is missing or isn't what the manifest says.
    """
    pictures, condition = read_vqgans(folder, manifest)
    if choice.gpu is not None:
        # not at the top: nothing of it is needed on the CPU
        from trt_vqgan.runtime.gpu.opening import open_on_gpu

        on_gpu = open_on_gpu(choice, folder, manifest, [each for each in (pictures, condition) if each is not None])
        networks: Mapping[str, Networks] = on_gpu.networks
    else:
        on_gpu, networks = None, {}

    precision = _decoder_precision(choice, manifest)

    def opened(vqgan: BundleVqgan) -> Autoencoder:
        computing = networks.get(vqgan.encoder) or _networks_on_cpu(folder, manifest, vqgan, choice, precision, threads)
        return Autoencoder(vqgan.spec, networks=computing, codebook=vqgan.codebook)

    models = OpenedModels(autoencoder=opened(pictures), on_gpu=on_gpu)
    models.decoder_precision = "bf16" if precision == "bf16" else ""
    if condition is not None:
        models.condition_encoder = opened(condition)
    elif manifest.model.condition is not None and manifest.model.condition.shares_first_stage:
        models.condition_encoder = models.autoencoder
    if manifest.model.transformer is not None:
        _open_transformer(models, folder, manifest, choice, threads)
    return models


def _open_transformer(
    models: OpenedModels, folder: Path, manifest: Manifest, choice: BackendChoice, threads: int
) -> None:
    if models.on_gpu is not None:
        from trt_vqgan.runtime.gpu.code_generator import DeviceCodeGenerator

        engine = models.on_gpu.engine
        assert engine is not None
        models.transformer = engine.describe()
        models.generator = DeviceCodeGenerator(manifest.model, engine)
        return
    path = graph_path(folder, manifest, "transformer")
    if path is None:
        raise BundleError(f"bundle {folder}: the model has a transformer but no graph of it")
    transformer = manifest.model.transformer
    assert transformer is not None
    if choice.name != "native":
        models.generator = CodeGenerator(manifest.model, TransformerEngine(path, transformer, threads=threads))
        return
    from trt_vqgan.runtime.native.engine import NativeEngine

    native = NativeEngine(path, transformer, threads=threads)
    models.transformer = native.describe()
    models.generator = CodeGenerator(manifest.model, native)


def _decoder_precision(choice: BackendChoice, manifest: Manifest) -> Precision:
    if choice.name != "native":
        return "fp32"
    from trt_vqgan.runtime.native.picture_precision import decoder_precision

    return decoder_precision(choice.picture_precision, manifest)


def _networks_on_cpu(
    folder: Path, manifest: Manifest, vqgan: BundleVqgan, choice: BackendChoice, precision: Precision, threads: int
) -> Networks:
    encoder = graph_path(folder, manifest, vqgan.encoder)
    decoder = graph_path(folder, manifest, vqgan.decoder) if vqgan.decoder is not None else None
    if choice.name != "native":
        return OnnxNetworks(vqgan.spec, codebook=vqgan.codebook, encoder=encoder, decoder=decoder, threads=threads)
    from trt_vqgan.runtime.native.networks import NativeNetworks

    return NativeNetworks(
        vqgan.spec,
        codebook=vqgan.codebook,
        encoder=encoder,
        decoder=decoder,
        threads=threads,
        decoder_precision=precision,
    )


def graph_path(folder: Path, manifest: Manifest, name: str) -> Path | None:
    """Return where a bundle's graph lies; None where it has none of that name."""
    entry = manifest.graphs.get(name)
    return None if entry is None else folder / entry.file
