"""A published checkpoint becomes a bundle."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import trt_vqgan
from trt_vqgan.errors import ExportError
from trt_vqgan.export.autoencoder_graph import codebook_key, decoder_graph, encoder_graph
from trt_vqgan.export.checkpoint import Checkpoint, open_checkpoint
from trt_vqgan.export.gpu_graphs import write_gpu_graphs
from trt_vqgan.export.gumbel_input import choose_gumbel_input
from trt_vqgan.export.precision_choice import choose_precision
from trt_vqgan.export.prefixed import Prefixed
from trt_vqgan.export.transformer_graph import Precision, transformer_graph
from trt_vqgan.export.whole_folder import whole_folder
from trt_vqgan.manifest import (
    GraphFile,
    MadeBy,
    Manifest,
    SamplingDefaults,
    record_files,
    write_manifest,
)
from trt_vqgan.spec import AutoencoderSpec, LayoutForm, ModelSpec

PRECISIONS = ("fp32", "int8", "int4", "auto")
HALF_WEIGHTS = "fp16 weights"

OnStage = Callable[[str], None]


def export_checkpoint(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    gpu: bool = False,
    class_names: Sequence[str] = (),
    layout_form: LayoutForm | None = None,
    null_class: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    licence: str | None = None,
    provenance: str | None = None,
    overwrite: bool = False,
    on_progress: OnStage | None = None,
    on_decision: OnStage | None = None,
) -> Path:
    """Write the bundle of a checkpoint and return its folder.

    Parameters
    ----------
    run : run folder, ``.ckpt`` or ``.safetensors``; ``config`` its YAML where it isn't found beside it.
    out : folder to make. It appears whole or not at all.
    precision : "fp32"; "int8": the transformer's matrices as int8 blocks of 64, the VQGAN's weights stored as float16
        (and computed in float32); "int4": the same with the layers' matrices as 4-bit blocks of 32; "auto": the fastest
        of these, mixtures of the last two included, whose predictions stay near those of "fp32" (`precision_choice`).
    gpu : add graphs for GPUs, in FP16.
    class_names : a name a class, in the order of their ids; for a model conditioned on boxes, of the objects' classes.
    layout_form : what the tokens of a scene model's layout are, "boxes", "boxes+crop", "points" or "points+crop"; by
        default what the config says.
    null_class : class that means "no class".
    temperature, top_k, top_p : sampling defaults; where none is given: top-k of a quarter of the vocabulary, at most
        250, for unconditional and mapped conditions, and the published class setting (top-k 600, top-p 0.92, both
        within the vocabulary) for class models.
    licence, provenance : free text that travels with the bundle.
    overwrite : replace an existing bundle at ``out``.
    on_progress : called with the name of each stage as it begins.
    on_decision : called with a sentence on what was decided from the weights rather than read from the config.

    Raises
    ------
    CheckpointError, SpecError : the checkpoint can't be read or isn't what its YAML says.
    ExportError : an unknown precision, an existing ``out``, or a write that failed.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    target = Path(out)
    _check_target(target, overwrite)
    say = on_progress or (lambda stage: None)
    say("reading")
    checkpoint = open_checkpoint(Path(run), config=None if config is None else Path(config))
    spec = checkpoint.spec
    if spec.autoencoder.quantizer == "gumbel":
        evidence = choose_gumbel_input(spec.autoencoder, checkpoint.weights, prefix="first_stage.")
        (on_decision or say)(evidence.told)
        autoencoder = dataclasses.replace(spec.autoencoder, gumbel_input=evidence.chosen)
        spec = dataclasses.replace(spec, autoencoder=autoencoder)
    is_boxes = spec.condition is not None and spec.condition.kind == "boxes"
    # made before any graph, so that a wrong name or number is told at once
    described = Manifest(
        model=spec,
        graphs={},
        files={},
        made_by=_made_by(checkpoint),
        sampling=_sampling_defaults(spec, temperature, top_k, top_p),
        class_names=() if is_boxes else tuple(class_names),
        layout_classes=tuple(class_names) if is_boxes else (),
        layout_form=layout_form if layout_form is not None else checkpoint.layout_form,
        null_class=null_class,
        licence=licence,
        provenance=provenance,
    )
    try:
        with whole_folder(target) as folder:
            choice = None
            if precision == "auto" and spec.transformer is not None:
                choice = choose_precision(spec, checkpoint.weights, sampling=described.sampling, say=say)
                (on_decision or say)(choice.told)
            graphs, precisions = write_graphs(
                folder,
                spec,
                checkpoint.weights,
                precision=choice.precision if choice is not None else "fp32" if precision == "auto" else precision,
                wider=choice.wider if choice is not None else frozenset(),
                say=say,
            )
            for_gpu = None
            if gpu:
                for_gpu = write_gpu_graphs(folder, spec, checkpoint.weights, say=say, say_decision=on_decision or say)
            say("hashing")
            manifest = dataclasses.replace(
                described,
                graphs=graphs,
                files=record_files(folder),
                precision=precisions,
                precision_measured=None if choice is None else choice.measured,
                gpu=for_gpu,
            )
            write_manifest(folder, manifest)
    except OSError as error:
        raise ExportError(
            f"{target}: can't be written ({error.strerror or error}); free space or choose another place"
        ) from error
    return target


def write_graphs(
    folder: Path,
    spec: ModelSpec,
    weights: Mapping[str, Any],
    *,
    precision: str,
    wider: frozenset[str] = frozenset(),
    say: OnStage = lambda stage: None,
) -> tuple[dict[str, GraphFile], dict[str, str]]:
    """Write the graphs and codebooks of a model into ``folder``; return the manifest's ``graphs`` and ``precision``.

    Parameters
    ----------
    weights : arrays under ``first_stage.``, ``condition.`` and ``transformer.``, read as they are written.
    wider : matrices of an int4 transformer that keep 8 bits.
    """
    graphs: dict[str, GraphFile] = {}
    precisions: dict[str, str] = {}

    def write_autoencoder(stage: AutoencoderSpec, prefix: str, names: Sequence[str], codebook: str) -> None:
        part = Prefixed(weights, prefix)
        for name in names:
            say(name)
            build = decoder_graph if name == "decoder" else encoder_graph
            model = build(stage, part, weight_dtype="fp32" if precision == "fp32" else "fp16")
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
            graphs[name] = GraphFile(file=f"{name}.onnx")
            precisions[name] = "fp32" if precision == "fp32" else HALF_WEIGHTS
        np.save(folder / codebook, np.ascontiguousarray(part[codebook_key(stage)], dtype=np.float32))

    write_autoencoder(spec.autoencoder, "first_stage.", ("encoder", "decoder"), "codebook.npy")
    if spec.condition is not None and spec.condition.autoencoder is not None:
        write_autoencoder(spec.condition.autoencoder, "condition.", ("condition_encoder",), "condition_codebook.npy")
    if spec.transformer is not None:
        say("transformer")
        graph = transformer_graph(spec.transformer, weights, precision=cast(Precision, precision), wider=wider)
        files = graph.save(folder / "transformer.onnx")
        graphs["transformer"] = GraphFile(file=files[0].name, data_file=files[1].name)
        precisions["transformer"] = precision
    return graphs, precisions


def _sampling_defaults(
    spec: ModelSpec, temperature: float | None, top_k: int | None, top_p: float | None
) -> SamplingDefaults:
    is_class = spec.condition is not None and spec.condition.kind == "class"
    vocab = spec.transformer.vocab_size if spec.transformer is not None else 1
    default_k = min(600, vocab) if is_class else max(1, min(250, vocab // 4))
    return SamplingDefaults(
        temperature=1.0 if temperature is None else temperature,
        top_k=default_k if top_k is None else top_k,
        top_p=(0.92 if is_class else None) if top_p is None else top_p,
    )


def _made_by(checkpoint: Checkpoint) -> MadeBy:
    return MadeBy(version=trt_vqgan.__version__, checkpoint=checkpoint.source, checkpoint_sha256=checkpoint.sha256())


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise ExportError(f"{target} exists; choose another folder, or overwrite it (--overwrite)")
    if not (target / "manifest.json").is_file():
        raise ExportError(f"{target} exists and is no bundle, so it won't be overwritten; choose another folder")
