"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trt_vqgan.cli.commands import debug_option

if TYPE_CHECKING:
    from trt_vqgan.runtime.pipeline import Pipeline

PATH = click.Path(path_type=Path)

bundle_argument = click.argument("bundle", type=PATH)
optional_bundle_argument = click.argument("bundle", type=PATH, required=False)
out_option = click.option("-o", "--out", type=PATH, required=True, metavar="OUT")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to compute with.  [default: the processors that this process may use]",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "native", "onnxruntime", "tensorrt", "cuda"]),
    default="auto",
    show_default=True,
    help="What runs the networks: our CPU kernels (compiled on first use), ONNX Runtime, TensorRT engines, or our "
    "CUDA kernels; the one chosen is said.",
)
picture_precision_option = click.option(
    "--picture-precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the decoder through our CPU kernels: bf16 needs AMX, and is what auto takes there for bundles of reduced "
    "precision. It never changes codes.",
)
device_option = click.option("--device", metavar="cpu|cuda:N", help="Where it runs.  [default: what suits the backend]")
config_option = click.option(
    "--config", type=PATH, help="The checkpoint's YAML.  [default: found beside or in the folder]"
)
class_option = click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="ID_OR_NAME",
    help="Class of a class model, by id or name; may be repeated; `all` for every class.",
)
condition_codes_option = click.option(
    "--condition-codes",
    type=PATH,
    metavar="FILE.npz",
    help="Condition given as codes: an integer array (B, L) or (B, h, w) named `condition_codes` or `codes`.",
)

FILE_CONDITIONS = ("depth", "segmentation", "layout", "image")
"""Options that name a file to make the condition of."""


def file_condition_options(function: Any) -> Any:
    """Add the options of `FILE_CONDITIONS`, and how their pictures are fitted."""
    for option in (
        click.option(
            "--fit",
            type=click.Choice(["crop", "pad", "stretch"]),
            help="How pictures of another size are fitted to the model's.  [default: crop, the middle, as published]",
        ),
        click.option("--image", type=PATH, metavar="IMG", help="Condition of a model that makes pictures of pictures."),
        click.option(
            "--layout",
            type=PATH,
            metavar="JSON",
            help='Boxes of a scene model: {"boxes": [{"class": NAME_OR_ID, "box": [x, y, width, height]}, …]}, '
            "in fractions of the picture.",
        ),
        click.option(
            "--shift-labels",
            is_flag=True,
            help="Read label ids as the published COCO-Stuff models do: id + 1, and 255 (no label) as 0.",
        ),
        click.option(
            "--segmentation",
            type=PATH,
            metavar="IMG",
            help="Label map: a grey or palette picture of label ids, or an integer .npy.",
        ),
        click.option(
            "--depth",
            type=PATH,
            metavar="IMG",
            help="Depth map: a grey picture, .npy, or float32 in the bytes of RGBA; any scale.",
        ),
    ):
        function = option(function)
    return function


def running_options(function: Any) -> Any:
    """Add the options of every command that runs a bundle."""
    for option in (debug_option, json_option, threads_option, device_option, backend_option):
        function = option(function)
    return function


def open_bundle(
    bundle: Path | None,
    *,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    deterministic: bool = False,
    picture_precision: str = "auto",
) -> Pipeline:
    """Return the bundle's pipeline; the demo's for None."""
    from trt_vqgan.runtime.pipeline import load

    return load(
        bundle,
        backend=backend,
        device=device,
        threads=threads,
        deterministic=deterministic,
        picture_precision=picture_precision,
    )


def say_backend(pipeline: Pipeline) -> str:
    """Return what runs the bundle, for the person at the terminal."""
    plural = "" if pipeline.threads == 1 else "s"
    backend = pipeline.backend_details
    return f"bundle {pipeline.bundle_id}, {backend}, {pipeline.precision}, {pipeline.threads} thread{plural}"
