"""What `export --gpu` adds to a bundle: the folder ``gpu`` with graphs for GPUs and the transformer's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trt_vqgan.export.gpu_autoencoder import GpuDtype, gpu_decoder_graph, gpu_encoder_graph
from trt_vqgan.export.gpu_ranges import wide_decoder_layers, wide_encoder_layers
from trt_vqgan.export.gpu_transformer import write_transformer
from trt_vqgan.export.prefixed import Prefixed
from trt_vqgan.manifest import GpuGraphs
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

GPU_FOLDER = "gpu"


def write_gpu_graphs(
    folder: Path,
    spec: ModelSpec,
    weights: Mapping[str, Any],
    *,
    dtype: GpuDtype = "fp16",
    say: Callable[[str], None] = lambda stage: None,
    say_decision: Callable[[str], None] = lambda sentence: None,
) -> GpuGraphs:
    """Write the GPU graphs of a model into ``folder``/gpu; return the manifest's section about them.

    Parameters
    ----------
    folder : of the bundle.
    weights : arrays under ``first_stage.``, ``condition.`` and ``transformer.``, read as they are written.
    dtype : "fp16", or "fp32" for the twin that tests run on the CPU.
    say : called with the name of each stage as it begins.
    say_decision : called with a sentence on the layers of each graph that stay in float32 because of their values.

    Raises
    ------
    ExportError : a missing weight, or one that does not fit float16.
    """
    part = folder / GPU_FOLDER
    part.mkdir()
    graphs: dict[str, str] = {}
    wider: dict[str, tuple[str, ...]] = {}

    def write(name: str, stage: AutoencoderSpec, prefix: str) -> None:
        say(f"gpu {name}")
        stage_weights = Prefixed(weights, prefix)
        is_decoder = name == "decoder"
        layers: tuple[str, ...] = ()
        if dtype == "fp16":
            layers = (wide_decoder_layers if is_decoder else wide_encoder_layers)(stage, stage_weights)
        if layers:
            wider[name] = layers
            say_decision(f"{name} for GPUs: {', '.join(layers)} in float32, because FP16 can't hold their values")
        build = gpu_decoder_graph if is_decoder else gpu_encoder_graph
        model = build(stage, stage_weights, dtype=dtype, wider=layers)
        graphs[name] = f"{GPU_FOLDER}/{name}.onnx"
        (folder / graphs[name]).write_bytes(model.SerializeToString())

    write("encoder", spec.autoencoder, "first_stage.")
    write("decoder", spec.autoencoder, "first_stage.")
    if spec.condition is not None and spec.condition.autoencoder is not None:
        write("condition_encoder", spec.condition.autoencoder, "condition.")
    weights_file = None
    if spec.transformer is not None:
        say("gpu transformer")
        path, segments = write_transformer(part, spec.transformer, weights, dtype=dtype)
        weights_file = f"{GPU_FOLDER}/{path.name}"
        graphs |= {segment.stem: f"{GPU_FOLDER}/{segment.name}" for segment in segments}
    return GpuGraphs(precision=dtype, graphs=graphs, weights=weights_file, wider=wider)
