"""``python -m trt_vqgan.benchmarks.published_models``: docs/published-models.md, what each released checkpoint needs.

Sizes, memory and speed come from the models' shapes alone: the formulas are `arithmetic` and `memory_formula`, and the
share of what memory allows is that of a measured row. No released checkpoint was ever run.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.arithmetic import decoder_operations, step_weight_bytes
from trt_vqgan.benchmarks.memory_formula import decoder_activation_bytes, memory_budget
from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.rows import NATIVE, TORCH, Row
from trt_vqgan.errors import SpecError, TrtVqganError
from trt_vqgan.export.key_shapes import autoencoder_shapes, transformer_shapes
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec

REPORT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "cpu.json"
ALSO = REPORT.with_name("published.json")
CONFIG, README, RECALLED = "config", "README", "recalled"
BATCH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One released checkpoint.

    Attributes
    ----------
    name : as its folder or file is called, or nearly.
    spec : what it is.
    source : where the spec is from: "config", a file of the published repository; "README" of it; or "recalled", from
        memory, which `export` replaces by what the checkpoint's own config says.
    layout : of its files.
    given : what `export` is given.
    """

    name: str
    spec: ModelSpec
    source: str
    layout: str
    given: str


def published_models() -> list[PublishedModel]:
    """Return the released checkpoints, transformers first."""
    labels = _f16(1024, in_channels=182, modality="segmentation")
    coco = _f16(1024, in_channels=183, modality="segmentation")
    depth = _f16(1024, in_channels=1, modality="depth")
    coordinates = ConditionSpec(kind="coordinates", num_tokens=256, coordinate_levels=1024, coordinate_factor=16)
    classes = ConditionSpec(kind="class", num_tokens=1, num_classes=1000)
    nothing = ConditionSpec(kind="unconditional", num_tokens=1)
    boxes = ConditionSpec(kind="boxes", num_tokens=92)
    run, alone, beside = "run folder", "`configs/model.yaml` in it", "`config.yaml` and `model.ckpt`"
    scene = "`.ckpt`, YAML"
    return [
        _model("S-FLCKR", 1024, _maps(labels), (24, 16, 1024), README, run, "2020-11-09T13-31-51_sflckr"),
        _model("D-RIN", 1024, _maps(depth), (24, 16, 1024), CONFIG, run, "drin_transformer"),
        _model("FacesHQ", 1024, coordinates, (24, 16, 1024), CONFIG, run, "faceshq_transformer"),
        _model("COCO-Stuff", 8192, _maps(coco), (32, 16, 1280), RECALLED, run, "coco_transformer"),
        _model("ImageNet (cIN)", 16384, classes, (48, 24, 1536), RECALLED, run, "2021-04-03T19-39-50_cin_transformer"),
        _model("FFHQ", 1024, nothing, (24, 16, 1664), RECALLED, run, "2021-04-23T18-19-01_ffhq_transformer"),
        _model("CelebA-HQ", 1024, nothing, (24, 16, 1664), RECALLED, run, "2021-04-23T18-11-19_celebahq_transformer"),
        _model("scenes, COCO", 8192, boxes, (40, 16, 1408), CONFIG, scene, "MODEL.ckpt --config MODEL.yaml"),
        _model("scenes, Open Images", 8192, boxes, (36, 16, 1536), CONFIG, scene, "MODEL.ckpt --config MODEL.yaml"),
        _alone("VQGAN ImageNet", _f16(1024), alone, "vqgan_imagenet_f16_1024"),
        _alone("VQGAN ImageNet", _f16(16384), alone, "vqgan_imagenet_f16_16384"),
        _alone("VQGAN Open Images", _gumbel(), alone, "vqgan_gumbel_f8"),
        _alone("VQGAN Open Images", _f8(16384), beside, "vq-f8"),
        _alone("VQGAN Open Images", _f8(256), beside, "vq-f8-n256"),
    ]


def bundle_bytes(spec: ModelSpec, precision: str) -> int:
    """Return about what a bundle's files have: weights, scales and codebooks; graphs themselves are left out.

    Parameters
    ----------
    precision : "fp32"; "int8" or "int4", with encoders and decoders in float16.
    """
    total = _vqgan_bytes(spec.autoencoder, precision)
    condition = spec.condition
    if condition is not None and condition.autoencoder is not None and not condition.shares_first_stage:
        total += _vqgan_bytes(condition.autoencoder, precision, decoder=False)
    transformer = spec.transformer
    if transformer is None:
        return total
    width = transformer.hidden_size
    tables = (transformer.vocab_size + transformer.max_seq_len) * width
    small = 4 * transformer.num_layers * 13 * width  # biases and norms
    matrices = step_weight_bytes(transformer, precision, scale_bytes=2)
    return total + matrices + small + (4 * tables if precision == "fp32" else tables)


def parameters(spec: ModelSpec) -> int:
    """Return the transformer's parameters, or the VQGAN's where there is none."""
    shapes = autoencoder_shapes(spec.autoencoder) if spec.transformer is None else transformer_shapes(spec.transformer)
    return sum(math.prod(shape) for shape in shapes.values())


def memory_bytes(spec: ModelSpec, precision: str, *, batch: int) -> int:
    """Return what generating, or decoding, may take."""
    size = bundle_bytes(spec, precision)
    if spec.transformer is None:
        return size + decoder_activation_bytes(spec.autoencoder) + 300 * 10**6
    return memory_budget(spec, bundle_bytes=size, batch=batch).total_bytes


def codes_per_second(spec: TransformerSpec, row: Row) -> float:
    """Return what a decode step of one picture gives, at the share of the memory's speed that ``row`` reached."""
    gigabytes = row.rates["GB/s of weights"]
    return gigabytes * 1e9 / step_weight_bytes(spec, row.precision)


def page(report: Report, *, source: str, also: Report | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    report : has the rows `step`, native int8, batch 1, and `decode`.
    also : steps that were measured at a published shape.

    Raises
    ------
    SpecError : it hasn't.
    """
    step = next((row for row in report.rows if _is_step(row, batch=1)), None)
    decodes = [row.latency.mean_ms / 1e3 for row in report.rows if row.what == "decode" and row.latency is not None
               and row.runner != TORCH]  # fmt: skip
    if step is None or not decodes:
        raise SpecError(f"{source}: has no rows of decode, and of step, native int8, batch 1; run `make bench`")
    head = _HEAD.format(
        source=source, model=step.model, gb=step.rates["GB/s of weights"], decode=min(decodes), batch=BATCH,
        share=step.rates["share of what it reads"] * 100,
    )  # fmt: skip
    seconds_an_operation = min(decodes) / decoder_operations(_f16(1024))
    lines = [_line(model, step, seconds_an_operation) for model in published_models()]
    measured = [] if also is None else _measured(also, step)
    return "\n".join([head, *_TABLE, *lines, *measured, "", _FOOT])


def _is_step(row: Row, *, batch: int) -> bool:
    return (row.what, row.precision, row.batch, row.runner) == ("step", "int8", batch, NATIVE)


def _line(model: PublishedModel, step: Row, seconds_an_operation: float) -> str:
    spec = model.spec
    seconds = decoder_operations(spec.autoencoder) * seconds_an_operation
    speed = "–"
    if spec.transformer is not None:
        rate = codes_per_second(spec.transformer, step)
        speed, seconds = f"{rate:.0f}", seconds + spec.num_codes / rate
    sizes = " / ".join(f"{bundle_bytes(spec, precision) / 1e9:.2f}" for precision in ("fp32", "int8"))
    memory = " / ".join(f"{memory_bytes(spec, precision, batch=BATCH) / 1e9:.1f}" for precision in ("fp32", "int8"))
    cells = [
        model.name, _shape(spec), model.source, f"{parameters(spec) / 1e6:,.0f} M", f"{sizes} GB", f"{memory} GB",
        speed, f"{seconds:.1f} s", model.layout, f"`trt-vqgan export {model.given} -o BUNDLE --precision int8`",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _shape(spec: ModelSpec) -> str:
    vqgan = spec.autoencoder
    base = f"f{vqgan.factor}, {vqgan.codebook_size} codes"
    transformer = spec.transformer
    if transformer is None:
        return base + (", Gumbel" if vqgan.quantizer == "gumbel" else "")
    return f"{base}; {transformer.num_layers}x{transformer.hidden_size}, {transformer.max_seq_len} positions"


def _measured(also: Report, step: Row) -> list[str]:
    load = also.load_average
    busy = f" (load average {load['before']:.1f} before, {load['after']:.1f} after: above two, others disturbed it)"
    lines = ["", f"Measured at a published shape, with random weights, by `{also.command}`{busy}:", ""]
    for row in also.rows:
        if row.what != "step" or row.runner != NATIVE or row.latency is None:
            continue
        line = f"- {row.model}, {row.precision}, {row.batch} at once: {row.rates['codes/s']:.0f} codes/s"
        line += f", a median step of {row.latency.p50_ms:.1f} ms"
        if row.batch == 1:
            rate = step.rates["GB/s of weights"] * 1e9 / row.facts["weight_bytes"]
            line += f"; {rate:.0f} codes/s by the formula"
        lines.append(line)
    return lines


def _model(
    name: str, codes: int, condition: ConditionSpec, shape: tuple[int, int, int], source: str, layout: str, given: str
) -> PublishedModel:
    layers, heads, width = shape
    # a picture's last code is never read: one condition token and 255 codes are 256 positions
    positions = 256 if condition.num_tokens == 1 else condition.num_tokens + 256
    transformer = TransformerSpec(
        vocab_size=codes, max_seq_len=positions, num_layers=layers, num_heads=heads, hidden_size=width
    )
    spec = ModelSpec(autoencoder=_f16(codes), transformer=transformer, condition=condition)
    return PublishedModel(name=name, spec=spec, source=source, layout=layout, given=given)


def _alone(name: str, spec: AutoencoderSpec, layout: str, given: str) -> PublishedModel:
    return PublishedModel(name=name, spec=ModelSpec(autoencoder=spec), source=README, layout=layout, given=given)


def _maps(vqgan: AutoencoderSpec) -> ConditionSpec:
    return ConditionSpec(kind="autoencoder", num_tokens=256, autoencoder=vqgan)


def _f16(codes: int, *, in_channels: int = 3, modality: str = "image") -> AutoencoderSpec:
    return AutoencoderSpec(
        quantizer="nearest", in_channels=in_channels, out_channels=in_channels, base_channels=128,
        channel_multipliers=(1, 1, 2, 2, 4), num_res_blocks=2, attention_resolutions=(16,), resolution=256,
        z_channels=256, code_dim=256, codebook_size=codes, modality=modality,  # type: ignore[arg-type]
    )  # fmt: skip


def _gumbel() -> AutoencoderSpec:
    return dataclasses.replace(
        _f16(8192), quantizer="gumbel", channel_multipliers=(1, 1, 2, 4), attention_resolutions=(32,)
    )


def _f8(codes: int) -> AutoencoderSpec:
    return dataclasses.replace(
        _f16(codes), channel_multipliers=(1, 2, 2, 4), attention_resolutions=(32,), z_channels=4, code_dim=4
    )


def _vqgan_bytes(spec: AutoencoderSpec, precision: str, *, decoder: bool = True) -> int:
    """Return the bytes of encoder, decoder and codebook: of the latter float32 beside the graphs, and once in one."""
    count = 0
    for key, shape in autoencoder_shapes(spec).items():
        of_decoder = key.startswith(("decoder.", "post_quant_conv.", "quantize.embed"))
        count += math.prod(shape) if decoder or not of_decoder else 0
    return (4 if precision == "fp32" else 2) * count + 4 * spec.codebook_size * spec.code_dim


_HEAD = """# Published models

Generated by `python -m trt_vqgan.benchmarks.published_models`. **None of these checkpoints was ever run with its real
weights: none could be downloaded here.** What stands below follows from their shapes. What was run are models of these
layouts with random weights (`pytest tests/export`), some at their full size, and small ones that were trained here.

- *facts*: `config` is a file of the published repository, `README` its text with configs of the same family;
  `recalled` is from memory. `export` takes what the checkpoint's own config says.
- *bundle*: fp32 / int8, the latter with encoders and decoders in float16. *memory*: of making {batch} pictures at once,
  by the formula in [method.md](benchmarks/method.md); of a VQGAN alone, of decoding one.
- *codes/s*: one picture at a time, int8, at the {gb:.1f} GB/s of weights ({share:.0f} % of what two cores can read)
  that the step of {model} had in `{source}`. *a picture*: its codes and its decoding, 256x256 pixels; that of the f16
  decoder is measured there ({decode:.2f} s), the others are in proportion to their operations. More pictures at once
  give more codes/s: [cpu.md](benchmarks/cpu.md).
"""

_TABLE = (
    "| model | shape | facts | parameters | bundle | memory | codes/s | a picture | layout | command |",
    "| :-- | :-- | :-- | --: | --: | --: | --: | --: | :-- | :-- |",
)

_FOOT = """Parameters are the transformer's, or of a VQGAN alone its own. A run folder has `configs/*-project.yaml` and
`checkpoints/last.ckpt`. ADE20K's transformer (4096 codes, label maps of 151 channels) is not in the table: no file that
could be read tells its layers; nor is the Open Images scene model of 125 M parameters. COCO-Stuff's label maps need
`generate --shift-labels`.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.published_models")
    parser.add_argument("-o", "--out", type=Path, default=REPORT.parents[1] / "published-models.md")
    parser.add_argument("--report", type=Path, default=REPORT, help="of `bench`, with steps and decoding")
    parser.add_argument("--also", type=Path, default=ALSO, help="report of `bench` with steps of a published shape")
    given = parser.parse_args(arguments)
    try:
        also = read_report(given.also)
        write_bytes(given.out, page(read_report(given.report), source=given.report.name, also=also).encode())
    except TrtVqganError as error:
        print(f"published_models: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
