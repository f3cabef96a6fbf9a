"""``trt-vqgan info``: what is in a bundle, and what can run it here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trt_vqgan.cli import options
from trt_vqgan.cli.commands import debug_option
from trt_vqgan.cli.conditions import model_kind
from trt_vqgan.errors import BackendUnavailableError

if TYPE_CHECKING:
    from trt_vqgan.manifest import Manifest
    from trt_vqgan.spec import AutoencoderSpec

MEBIBYTE = 1 << 20


@click.command(short_help="Say what is in a bundle and what can run it here.")
@options.bundle_argument
@options.json_option
@debug_option
def info(bundle: Path, as_json: bool) -> None:
    """Print what is inside BUNDLE: models, sizes, precision, conditions, and which backends can run it here."""
    from trt_vqgan.manifest import read_manifest

    manifest = read_manifest(bundle)
    backends = _backends()
    if as_json:
        report = dataclasses.asdict(manifest) | {
            "bundle_id": manifest.bundle_id,
            "size_bytes": manifest.size_bytes,
            "backends": backends,
        }
        click.echo(json.dumps(report))
        return
    for name, text in [*_rows(manifest), *((f"backend {name}", text) for name, text in backends.items())]:
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
    made_by = manifest.made_by
    rows.append(
        ("made by", f"trt-vqgan {made_by.version} from {made_by.checkpoint} ({made_by.checkpoint_sha256[:12]}…)")
    )
    rows += [
        (name, text) for name, text in (("licence", manifest.licence), ("provenance", manifest.provenance)) if text
    ]
    return rows


def _autoencoder(spec: AutoencoderSpec) -> str:
    return (
        f"{spec.resolution}x{spec.resolution} {spec.modality} with {spec.out_channels} channels, "
        f"{spec.factor}x{spec.factor} pixels a code, {spec.codebook_size} codes of {spec.code_dim} dimensions, "
        f"{spec.quantizer}"
    )


def _backends() -> dict[str, str]:
    """Return each backend with "yes, …" or "no, …" and the reason."""
    from trt_vqgan.runtime.threads import available_threads

    try:
        import onnxruntime

        from trt_vqgan.runtime.sessions import check_onnxruntime

        check_onnxruntime()
    except ImportError as error:
        return {"onnxruntime": f"no, it can't be imported ({error}); `pip install onnxruntime` installs it"}
    except BackendUnavailableError as error:
        return {"onnxruntime": f"no, {error}"}
    return {"onnxruntime": f"yes, version {onnxruntime.__version__} on the CPU, {available_threads()} threads"}
