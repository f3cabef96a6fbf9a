"""The manifest: what is written comes back, and what isn't a manifest is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import (
    FileRecord,
    GpuGraphs,
    GraphFile,
    MadeBy,
    Manifest,
    SamplingDefaults,
    check_file_name,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
    record_files,
    verify_files,
    write_manifest,
)
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec

SHA = "0" * 64

AUTOENCODER = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=32,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    resolution=4,
    z_channels=32,
    code_dim=8,
    codebook_size=16,
)


def class_model(num_classes: int, permutation: tuple[int, ...] | None = None) -> ModelSpec:
    return ModelSpec(
        autoencoder=AUTOENCODER,
        transformer=TransformerSpec(
            vocab_size=max(16, num_classes), max_seq_len=8, num_layers=1, num_heads=2, hidden_size=8
        ),
        condition=ConditionSpec(kind="class", num_tokens=1, num_classes=num_classes),
        permutation=permutation,
    )


names = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.(onnx|npy|data)", fullmatch=True)
records = st.builds(
    FileRecord,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    size_bytes=st.integers(0, 1 << 50),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    files = draw(st.dictionaries(names, records, min_size=2, max_size=5))
    file_names = sorted(files)
    graphs = {"decoder": GraphFile(file=file_names[0], data_file=draw(st.sampled_from([None, file_names[1]])))}
    num_classes = draw(st.integers(1, 4))
    class_names = draw(st.sampled_from([(), tuple(f"{draw(st.text(max_size=6))}{i}" for i in range(num_classes))]))
    permutation = draw(st.none() | st.permutations(range(4)).map(tuple))
    sampling = SamplingDefaults(
        temperature=draw(st.floats(1e-6, 1e6)),
        top_k=draw(st.none() | st.integers(1, 1 << 40)),
        top_p=draw(st.none() | st.floats(0, 1, exclude_min=True)),
    )
    return Manifest(
        model=draw(st.sampled_from([ModelSpec(autoencoder=AUTOENCODER), class_model(num_classes, permutation)]))
        if not class_names
        else class_model(num_classes, permutation),
        graphs=graphs,
        files=files,
        precision=draw(st.sampled_from([{}, {"decoder": "fp32"}])),
        sampling=sampling,
        class_names=class_names,
        made_by=MadeBy(version=draw(st.text(max_size=5)), checkpoint=draw(st.text(max_size=5)), checkpoint_sha256=SHA),
        licence=draw(st.none() | st.text(max_size=20)),
        provenance=draw(st.none() | st.text(max_size=20)),
    )


@given(manifests())
def test_roundtrip(manifest: Manifest) -> None:
    again = manifest_from_json(manifest_to_json(manifest))
    assert again == manifest
    assert again.bundle_id == manifest.bundle_id
    assert manifest_to_json(again) == manifest_to_json(manifest)


def plain(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "model": class_model(3),
        "graphs": {"decoder": GraphFile(file="decoder.onnx")},
        "files": {"decoder.onnx": FileRecord(sha256=SHA, size_bytes=0)},
        "made_by": MadeBy(version="0", checkpoint="run", checkpoint_sha256=SHA),
    }
    return Manifest(**(values | changes))


def test_a_layouts_classes() -> None:
    condition = ConditionSpec(kind="boxes", num_tokens=3)
    model = dataclasses.replace(class_model(3), condition=condition)
    manifest = plain(model=model, layout_classes=("cat", "dog"))
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    assert manifest.bundle_id == plain(model=model).bundle_id, "names don't change what is computed"
    with pytest.raises(BundleError, match="two layout classes have the same name"):
        plain(model=model, layout_classes=("cat", "cat"))


def test_the_form_of_a_layout() -> None:
    condition = ConditionSpec(kind="boxes", num_tokens=3)
    model = dataclasses.replace(class_model(3), condition=condition)
    manifest = plain(model=model, layout_form="boxes")
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    with pytest.raises(BundleError, match="'points', but the model takes 3 tokens, .* wanted one of boxes$"):
        plain(model=model, layout_form="points")


def with_gpu(**changes: Any) -> Manifest:
    """A class model with graphs for GPUs, of one layer."""
    graphs = {name: f"gpu/{name}.onnx" for name in ("encoder", "decoder", "segment_00", "segment_01")}
    values: dict[str, Any] = {"precision": "fp16", "graphs": graphs, "weights": "gpu/transformer.safetensors"}
    gpu = GpuGraphs(**(values | changes))
    names = ["decoder.onnx", *graphs.values(), "gpu/transformer.safetensors"]
    return plain(gpu=gpu, files={name: FileRecord(sha256=SHA, size_bytes=0) for name in names})


def test_graphs_for_gpus() -> None:
    manifest = with_gpu(wider={"decoder": ("decoder.mid.block_1",)})
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
    assert manifest.gpu is not None
    assert manifest.gpu.segments == ("segment_00", "segment_01")
    assert manifest.gpu.files_of("decoder") == ("gpu/decoder.onnx",)
    assert manifest.gpu.files_of("segment_01") == ("gpu/segment_01.onnx", "gpu/transformer.safetensors")
    changed = dataclasses.replace(
        manifest, files=manifest.files | {"gpu/transformer.safetensors": FileRecord(sha256="1" * 64, size_bytes=0)}
    )
    assert changed.gpu_graph_sha256("decoder") == manifest.gpu_graph_sha256("decoder")
    assert changed.gpu_graph_sha256("segment_00") != manifest.gpu_graph_sha256("segment_00")


def test_a_bundle_without_them_has_no_such_key() -> None:
    assert "gpu" not in json.loads(manifest_to_json(plain()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graphs": {"encoder": "gpu/encoder.onnx"}}, "this model wants decoder, encoder, segment_00, segment_01"),
        ({"weights": None}, "belongs to a transformer"),
        ({"weights": "gpu/other"}, "'gpu/other', which is not among the files"),
        ({"wider": {"other": ("layer",)}}, "gpu.wider names 'other'"),
    ],
)
def test_a_wrong_section_on_gpus_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        with_gpu(**changes)


def test_an_unknown_key_about_gpus_is_refused() -> None:
    text = manifest_to_json(with_gpu()).replace('"precision": "fp16"', '"precision": "fp16", "engines": {}')
    with pytest.raises(BundleError, match="unknown key 'engines'"):
        manifest_from_json(text)


def edited(**changes: Any) -> str:
    return json.dumps(json.loads(manifest_to_json(plain())) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("[]", "found list"),
        ("{}", "schema is None"),
        (edited(schema=2), "schema is 2"),
        (edited(schema=True), "schema is True"),
        (edited(extra=1), "unknown key 'extra'"),
        (edited(licence=3), "licence"),
        (edited(class_names=["a", "b"]), "2 class names, the model has 3 classes"),
        (edited(class_names=["a", "b", "a"]), "same name"),
        (edited(null_class=3), "null_class is 3"),
        (edited(layout_classes=["a"]), "isn't conditioned on boxes"),
        (edited(layout_form="boxes"), "isn't conditioned on boxes"),
        (edited(layout_form="circles"), "found 'circles', wanted one of 'boxes'"),
        (edited(precision={"encoder": "fp32"}), "precision names 'encoder'"),
        (edited(graphs={"decoder": {"file": "other.onnx"}}), "'other.onnx'"),
        (edited(sampling={"temperature": 0}), "temperature is 0"),
        (edited(sampling={"top_k": 0}), "top_k is 0"),
        (edited(sampling={"top_p": 1.5}), "top_p is 1.5"),
        (edited(files={"decoder.onnx": {"sha256": "no", "size_bytes": 1}}), "64 hex digits"),
        (
            edited(files={"decoder.onnx": {"sha256": SHA, "size_bytes": 1}, "../x": {"sha256": SHA, "size_bytes": 1}}),
            "'../x'",
        ),
        (manifest_to_json(plain()).replace('"schema": 1', '"schema": 1, "schema": 1'), "twice"),
        (manifest_to_json(plain()).replace('"temperature": 1.0', '"temperature": NaN'), "NaN"),
        (manifest_to_json(plain()).replace('"temperature": 1.0', '"temperature": 1e999'), "temperature is inf"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        manifest_from_json(text)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a\\b", "C:a", "a\0b", "manifest.json", "a/"]
)
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(BundleError):
        check_file_name(name)


def test_file_names_allowed() -> None:
    assert check_file_name("transformer.onnx.data") == "transformer.onnx.data"
    assert check_file_name("engines/a.plan") == "engines/a.plan"


def test_bundle_id_follows_files_and_model() -> None:
    ids = {
        plain().bundle_id,
        plain(files={"decoder.onnx": FileRecord(sha256="1" * 64, size_bytes=0)}).bundle_id,
        plain(model=class_model(3, (3, 2, 1, 0))).bundle_id,
    }
    assert len(ids) == 3
    # Names of classes and free text don't change what the bundle computes.
    assert plain(licence="MIT", class_names=("a", "b", "c")).bundle_id == plain().bundle_id


def make_bundle(folder: Path) -> Manifest:
    (folder / "engines").mkdir()
    (folder / "decoder.onnx").write_bytes(b"decoder")
    (folder / "engines" / "a.plan").write_bytes(b"engine")
    manifest = plain(files=record_files(folder))
    write_manifest(folder, manifest)
    return manifest


def test_files_are_verified(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    manifest = read_manifest(tmp_path)
    assert set(manifest.files) == {"decoder.onnx", "engines/a.plan"}
    assert manifest.size_bytes == len(b"decoder") + len(b"engine")
    verify_files(tmp_path, manifest)
    assert not list(tmp_path.glob(".*"))


def test_changed_file_is_found(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(b"dec0der")
    with pytest.raises(BundleError, match="decoder.onnx was changed"):
        verify_files(tmp_path, manifest)
    (tmp_path / "decoder.onnx").write_bytes(b"dec")
    with pytest.raises(BundleError, match="decoder.onnx has 3 bytes, the manifest says 7"):
        verify_files(tmp_path, manifest)
    (tmp_path / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match="decoder.onnx is missing"):
        verify_files(tmp_path, manifest)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is no bundle"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="can't be read"):
        read_manifest(tmp_path)


def test_manifest_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain().licence = "MIT"  # type: ignore[misc]
