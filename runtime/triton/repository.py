"""A bundle as a model repository of Triton Inference Server.

=================== ================================================ ==============================================
model               what it is                                       input → output
=================== ================================================ ==============================================
``NAME_encoder``    ONNX graph, or TensorRT engine                   ``image`` → ``z``; Gumbel: ``logits``, ``codes``
``NAME_decoder``    ONNX graph, or TensorRT engine                   ``codes`` → ``pixels``; engines: ``latents``
``NAME_codes``      Python: nearest row of the codebook              ``z`` → ``codes``
``NAME_encode``     the encoder and the codes, one after the other   ``image`` → ``codes``
``NAME_generate``   Python: the runtime, with the bundle beside it   arguments → ``images``, ``codes``
=================== ================================================ ==============================================

A folder a model, with ``config.pbtxt`` and a folder ``1`` for its one version, as Triton documents.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

import trt_vqgan
from trt_vqgan.engine_records import EngineRecord, read_engine, read_engine_records
from trt_vqgan.errors import EngineMismatchError, ExportError
from trt_vqgan.manifest import (
    MANIFEST_NAME,
    Manifest,
    bundle_folder,
    manifest_to_json,
    read_manifest,
    verify_files,
)
from trt_vqgan.runtime.bundle_vqgans import read_vqgans
from trt_vqgan.runtime.triton import configs
from trt_vqgan.runtime.triton.configs import BUNDLE_FOLDER, CODEBOOK_NAME, Config, Networks
from trt_vqgan.runtime.triton.text_format import to_text
from trt_vqgan.tensorrt_package import FULL, TITLES

CONFIG_NAME = "config.pbtxt"
VERSION = "1"

Fill = Callable[[Path], object]
"""Puts a model's files into its version's folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenModel:
    """A model of a repository: its name, and what runs it in Triton."""

    name: str
    runs_in: str


def write_repository(
    bundle: Path,
    repository: Path,
    *,
    name: str = "vqgan",
    target: str | None = None,
    threads: int | None = None,
    site_packages: Path | None = None,
) -> list[WrittenModel]:
    """Write a bundle's models into a repository, whole or not at all; return what was written.

    Parameters
    ----------
    repository : a folder, made if it isn't there; other models in it stay.
    name : what the models' names begin with.
    target : a GPU architecture as "sm90": encoder and decoder are then its engines, else ONNX graphs.
    threads : of the model that generates; None for all processors.
    site_packages : folder of packages with this one among them, on Triton's machine, for a Triton whose own Python
        lacks it. (Its Python backend doesn't look at PYTHONPATH.)

    Raises
    ------
    BundleError : the bundle can't be used.
    EngineMismatchError : it has no engine that Triton can load for this target.
    ExportError : the repository has a model of one of these names.
    """
    manifest, folder = read_manifest(bundle), bundle_folder(bundle)
    verify_files(folder, manifest)
    models = _models(manifest, folder, name, target, threads, _program(site_packages))
    taken = [model for model in models if (repository / model).exists()]
    if taken:
        raise ExportError(f"{repository / taken[0]} is there already; remove it, or give another --name than {name}")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=repository) as temporary:
        for model, (config, fill) in models.items():
            version = Path(temporary) / model / VERSION
            version.mkdir(parents=True)
            fill(version)
            (version.parent / CONFIG_NAME).write_text(to_text(config))
        for model in models:
            (Path(temporary) / model).rename(repository / model)
    return [
        WrittenModel(name=model, runs_in=str(config.get("backend") or config["platform"]))
        for model, (config, _) in models.items()
    ]


def _models(
    manifest: Manifest, folder: Path, name: str, target: str | None, threads: int | None, program: str
) -> dict[str, tuple[Config, Fill]]:
    spec = manifest.model.autoencoder
    networks: Networks = "onnx" if target is None else "tensorrt"
    files = _graphs(manifest, folder) if target is None else _engines(manifest, folder, target)
    encoder, decoder, codes = f"{name}_encoder", f"{name}_decoder", f"{name}_codes"
    models: dict[str, tuple[Config, Fill]] = {
        encoder: (configs.encoder_config(encoder, spec, networks), files["encoder"]),
        decoder: (configs.decoder_config(decoder, spec, networks), files["decoder"]),
    }
    if configs.encoder_output(spec, networks)["name"] != "codes":
        codebook = read_vqgans(folder, manifest)[0].codebook

        def fill_codes(version: Path) -> None:
            np.save(version / CODEBOOK_NAME, codebook)
            (version / "model.py").write_text(program.format(model="CodesModel"))

        encode = f"{name}_encode"
        models[codes] = (configs.codes_config(codes, spec, networks), fill_codes)
        ensemble = configs.encode_config(encode, spec, networks, encoder=encoder, codes=codes)
        models[encode] = (ensemble, lambda version: None)
    if manifest.model.transformer is not None:

        def fill_generate(version: Path) -> None:
            _copy_bundle(folder, manifest, version / BUNDLE_FOLDER)
            (version / "model.py").write_text(program.format(model="GenerateModel"))

        generate = f"{name}_generate"
        models[generate] = (configs.generate_config(generate, manifest.model, threads=threads), fill_generate)
    return models


def _graphs(manifest: Manifest, folder: Path) -> dict[str, Fill]:
    def copy(graph: str) -> Fill:
        entry = manifest.graphs[graph]

        def fill(version: Path) -> None:
            shutil.copyfile(folder / PurePosixPath(entry.file), version / configs.MODEL_FILES["onnx"])
            if entry.data_file is not None:  # the graph names it as it is named beside it
                data = PurePosixPath(entry.data_file)
                shutil.copyfile(folder / data, version / data.name)

        return fill

    return {"encoder": copy("encoder"), "decoder": copy("decoder")}


def _engines(manifest: Manifest, folder: Path, target: str) -> dict[str, Fill]:
    records = read_engine_records(folder)

    def copy(graph: str) -> Fill:
        record = _engine(records, manifest, graph, target)
        return lambda version: (version / configs.MODEL_FILES["tensorrt"]).write_bytes(read_engine(folder, record))

    return {"encoder": copy("encoder"), "decoder": copy("decoder")}


def _engine(records: tuple[EngineRecord, ...], manifest: Manifest, graph: str, target: str) -> EngineRecord:
    """Return the engine of a graph for a target that Triton's TensorRT backend can load: one of full TensorRT."""
    build = f"run `trt-vqgan build BUNDLE --target {target}` with it on a machine with the GPU, or leave --target out"
    if manifest.gpu is None:
        raise EngineMismatchError("the bundle has no graphs for GPUs; export the checkpoint again with --gpu")
    wanted = manifest.gpu_graph_sha256(graph)
    found = [record for record in records if record.key.graph == graph and target in record.key.targets]
    fitting = [record for record in found if record.key.package == FULL and record.key.graph_sha256 == wanted]
    if fitting:
        return fitting[-1]
    others = ", ".join(dict.fromkeys(TITLES.get(r.key.package, r.key.package) for r in found))
    has = f"its engines for {target} are by {others}, or of other weights" if found else f"it has none for {target}"
    raise EngineMismatchError(f"Triton loads engines of {TITLES[FULL]}, and of {graph} {has}; {build}")


def _copy_bundle(folder: Path, manifest: Manifest, target: Path) -> None:
    for name in manifest.files:
        path = target / PurePosixPath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PurePosixPath(name), path)
    (target / MANIFEST_NAME).write_text(manifest_to_json(manifest), encoding="utf-8")


def _program(site_packages: Path | None) -> str:
    """Return the text of a ``model.py``, with ``{model}`` for the name of its class."""
    where = (
        [] if site_packages is None else ["import site", "", f"site.addsitedir({str(site_packages.resolve())!r})", ""]
    )
    late = "" if site_packages is None else "  # noqa: E402"
    lines = [
        f'"""Written by `trt-vqgan export-triton`; Triton\'s Python needs trt-vqgan {trt_vqgan.__version__}."""',
        "",
        *where,
        f"from trt_vqgan.runtime.triton.python_models import {{model}} as TritonPythonModel{late}",
        "",
        '__all__ = ["TritonPythonModel"]',
    ]
    return "\n".join(lines) + "\n"
