"""``trt-vqgan info``: what is in a bundle, and what can run it here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.cli.conditions import model_kind

if TYPE_CHECKING:
    from trt_vqgan.engine_records import EngineRecord
    from trt_vqgan.manifest import Manifest, PrecisionMeasurement
    from trt_vqgan.spec import AutoencoderSpec

MEBIBYTE = 1 << 20


@click.command(short_help="Say what is in a bundle and what can run it here.")
@options.bundle_argument
@options.json_option
@debug_option
def info(bundle: Path, as_json: bool) -> None:
    """Print what is inside BUNDLE: models, sizes, precision, conditions, engines, and what can run it here."""
    from trt_vqgan.engine_records import read_engine_records
    from trt_vqgan.manifest import bundle_folder, read_manifest
    from trt_vqgan.runtime.backends import backend_reports

    manifest, folder = read_manifest(bundle), bundle_folder(bundle)
    engines = read_engine_records(folder)
    backends = {name: str(report) for name, report in backend_reports(folder, manifest).items()}
    if as_json:
        report = dataclasses.asdict(manifest) | {
            "bundle_id": manifest.bundle_id,
            "size_bytes": manifest.size_bytes,
            "engines": [dataclasses.asdict(record) for record in engines],
            "backends": backends,
        }
        click.echo(json.dumps(report))
        return
    for name, text in [
        *_rows(manifest),
        *_engine_rows(manifest, engines),
        *((f"backend {name}", text) for name, text in backends.items()),
    ]:
        click.echo(f"{name + ':':<22} {text}")


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    model = manifest.model
    rows = [
        ("bundle", f"{manifest.bundle_id}, {manifest.size_bytes / MEBIBYTE:.1f} MiB in {len(manifest.files)} files"),
        ("model", model_kind(manifest)),
        ("autoencoder", _autoencoder(model.autoencoder)),
    ]
    if model.transformer is not None and model.condition is not None:
        gpt, condition = model.transformer, model.condition
        one_pass = ", all codes in one pass" if gpt.one_pass else ""
        rows.append(
            (
                "transformer",
                f"{gpt.num_layers} layers of width {gpt.hidden_size}, {gpt.num_heads} heads of {gpt.head_size}, "
                f"vocabulary {gpt.vocab_size}, {gpt.max_seq_len} positions{one_pass}",
            )
        )
        rows.append(("picture", f"{model.num_codes} codes after {condition.num_tokens} condition tokens"))
        if condition.autoencoder is not None:
            rows.append(("condition", _autoencoder(condition.autoencoder)))
        if condition.kind == "class":
            class_names = ", ".join(manifest.class_names) or "without names"
            rows.append(("classes", f"{condition.num_classes}: {class_names}"))
        if condition.kind == "boxes":
            rows.append(("layout form", manifest.layout_form or "not known: --layout may need one, see export --help"))
        if manifest.layout_classes:
            rows.append(("layout classes", f"{len(manifest.layout_classes)}: {', '.join(manifest.layout_classes)}"))
        if manifest.null_class is not None:
            rows.append(("no class", f"{manifest.null_class}, so --guidance works"))
        sampling = manifest.sampling
        limits = f"top-k {sampling.top_k or 'off'}, top-p {sampling.top_p or 'off'}"
        rows.append(("sampling defaults", f"temperature {sampling.temperature:g}, {limits}"))
    for graph, files in manifest.graphs.items():
        names = [name for name in (files.file, files.data_file) if name is not None]
        size_bytes = sum(manifest.files[name].size_bytes for name in names)
        precision = manifest.precision.get(graph, "fp32")
        rows.append((f"graph {graph}", f"{precision}, {size_bytes / MEBIBYTE:.1f} MiB, {', '.join(names)}"))
    if manifest.precision_measured is not None:
        rows += _measured_rows(manifest.precision_measured)
    if manifest.gpu is not None:
        gpu = manifest.gpu
        size_bytes = sum(manifest.files[name].size_bytes for graph in gpu.graphs for name in gpu.files_of(graph)[:1])
        size_bytes += manifest.files[gpu.weights].size_bytes if gpu.weights is not None else 0
        names = [graph for graph in gpu.graphs if graph not in gpu.segments]
        names += [f"{len(gpu.segments)} segments of the transformer"] if gpu.segments else []
        rows.append(("graphs for GPUs", f"{gpu.precision}, {size_bytes / MEBIBYTE:.1f} MiB, {', '.join(names)}"))
        rows += [(f"float32 in {graph}", ", ".join(layers)) for graph, layers in gpu.wider.items()]
    made_by = manifest.made_by
    rows.append(
        ("made by", f"trt-vqgan {made_by.version} from {made_by.checkpoint} ({made_by.checkpoint_sha256[:12]}…)")
    )
    rows += [
        (name, text) for name, text in (("licence", manifest.licence), ("provenance", manifest.provenance)) if text
    ]
    return rows


def _measured_rows(measured: PrecisionMeasurement) -> list[tuple[str, str]]:
    """Return a row for each precision that `export --precision auto` measured."""
    return [
        (
            f"measured {name}",
            f"{candidate.kl_nats:.4f} nats of mean divergence a code, negative log-likelihood "
            f"{100 * candidate.nll_rise:+.2f} %, {candidate.bits:.2f} bits a weight"
            + (f", 8 bits in {len(candidate.wider)} matrices" if candidate.wider else ""),
        )
        for name, candidate in measured.candidates.items()
    ]


def _engine_rows(manifest: Manifest, engines: Sequence[EngineRecord]) -> list[tuple[str, str]]:
    """Return a row for each TensorRT and set of targets that the model's graphs have engines of."""
    from trt_vqgan.tensorrt_package import TITLES

    if manifest.gpu is None:
        return []
    hashes = {graph: manifest.gpu_graph_sha256(graph) for graph in manifest.gpu.graphs}
    groups: dict[str, list[EngineRecord]] = {}
    stale = 0
    for record in engines:
        if hashes.get(record.key.graph) != record.key.graph_sha256:
            stale += 1
            continue
        title = f"{TITLES.get(record.key.package, record.key.package)} {record.key.version}"
        groups.setdefault(f"{title} for {', '.join(record.key.targets)}", []).append(record)
    rows = [
        (
            "engines",
            f"{built_for}: {len(records)} of {len(hashes)} graphs, "
            f"{sum(record.size_bytes for record in records) / MEBIBYTE:.1f} MiB",
        )
        for built_for, records in groups.items()
    ]
    if not rows:
        rows = [("engines", "none; `trt-vqgan build` makes them")]
    return [*rows, ("engines", f"{stale} of other graphs or weights")] if stale else rows


def _autoencoder(spec: AutoencoderSpec) -> str:
    return (
        f"{spec.resolution}x{spec.resolution} {spec.modality} with {spec.out_channels} channels, "
        f"{spec.factor}x{spec.factor} pixels a code, {spec.codebook_size} codes of {spec.code_dim} dimensions, "
        f"{spec.quantizer}"
    )
