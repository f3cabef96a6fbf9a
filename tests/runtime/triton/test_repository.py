"""A model repository: its layout, every config read by Triton's own message, and its Python models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.runtime.jobs.small_jobs import small_bundle
from tests.runtime.triton.backend_harness import open_model, request
from trt_vqgan.cli import main
from trt_vqgan.engine_records import EngineKey, EngineRecord, write_engine_records
from trt_vqgan.errors import BundleError, EngineMismatchError, ExportError
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.triton.configs import GENERATE_INPUTS, encoder_config
from trt_vqgan.runtime.triton.repository import write_repository
from trt_vqgan.runtime.triton.text_format import Word, to_text

model_config_pb2 = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="tritonclient isn't installed; `pip install '.[dev]'` installs it"
)
text_format = pytest.importorskip("google.protobuf.text_format")
json_format = pytest.importorskip("google.protobuf.json_format")

ONNX_DTYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.INT64: "TYPE_INT64"}


def read_config(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def as_triton_gives_it(config: Any) -> dict[str, Any]:
    """Return a config as the JSON that a Python model is initialized with."""
    found: dict[str, Any] = json.loads(json_format.MessageToJson(config, preserving_proto_field_name=True))
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("class"))


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    written = write_repository(bundle, folder, threads=2)
    assert [(model.name, model.runs_in) for model in written] == [
        ("vqgan_encoder", "onnxruntime_onnx"),
        ("vqgan_decoder", "onnxruntime_onnx"),
        ("vqgan_codes", "python"),
        ("vqgan_encode", "ensemble"),
        ("vqgan_generate", "python"),
    ]
    return folder


def test_the_layout_is_the_documented_one(repository: Path) -> None:
    files = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
    assert {name for name in files if "/bundle/" not in name} == {
        "vqgan_encoder/config.pbtxt", "vqgan_encoder/1/model.onnx", "vqgan_decoder/config.pbtxt",
        "vqgan_decoder/1/model.onnx", "vqgan_codes/config.pbtxt", "vqgan_codes/1/model.py",
        "vqgan_codes/1/codebook.npy", "vqgan_encode/config.pbtxt", "vqgan_generate/config.pbtxt",
        "vqgan_generate/1/model.py",
    }  # fmt: skip
    assert (repository / "vqgan_encode" / "1").is_dir()  # an ensemble has a version too, and nothing in it
    for folder in repository.iterdir():
        assert read_config(folder).name == folder.name


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_configs_say_what_the_graphs_say(repository: Path, name: str) -> None:
    config = read_config(repository / f"vqgan_{name}")
    graph = onnx.load(repository / f"vqgan_{name}" / "1" / "model.onnx").graph
    for given, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in given] == [value.name for value in values]
        for tensor, value in zip(given, values, strict=True):
            kind = value.type.tensor_type
            assert model_config_pb2.DataType.Name(tensor.data_type) == ONNX_DTYPES[kind.elem_type]
            dims = [side.dim_value or -1 for side in kind.shape.dim]
            assert dims[0] == -1  # the batch, which a config leaves out where max_batch_size is above 0
            assert list(tensor.dims) == dims[1:]
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    ort.InferenceSession(repository / f"vqgan_{name}" / "1" / "model.onnx")


def test_the_ensemble_joins_what_is_there(repository: Path) -> None:
    config = read_config(repository / "vqgan_encode")
    given = {tensor.name for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        model = read_config(repository / step.model_name)
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) == {tensor.name for tensor in model.output}
        assert set(step.input_map.values()) <= given
        given |= set(step.output_map.values())
    assert {tensor.name for tensor in config.output} <= given


def test_generation_is_that_of_the_runtime(repository: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(repository / "vqgan_generate")
    assert {tensor.name for tensor in config.input} == set(GENERATE_INPUTS)
    assert all(tensor.optional for tensor in config.input)
    model = open_model(repository / "vqgan_generate", as_triton_gives_it(config), monkeypatch)
    assert model.pipeline.threads == 2
    kept = np.full((1, 8, 8), -1)
    kept[:, :4] = 7
    full = request(
        n=np.array([3], np.int32), seed=np.array([1 << 63], np.uint64), first_picture=np.array([4]),
        class_id=np.array([b"sea", b"1"], object), temperature=np.array([0.5], np.float32),
        top_k=np.array([9], np.int32), top_p=np.array([0.5], np.float32), greedy=np.array([False]),
        guidance=np.array([2], np.float32), size=np.array([40, 32], np.int32),
    )  # fmt: skip
    wrong = request(class_id=np.array([b"nothing"], object))
    twice = request(n=np.array([1, 2], np.int32))
    responses = model.execute([full, request(), wrong, twice, request(kept_codes=kept)])
    with trt_vqgan.load(bundle) as pipeline:
        expected = pipeline.generate(
            n=3, seed=1 << 63, first_picture=4, class_id=["sea", 1], temperature=0.5, top_k=9, top_p=0.5, guidance=2.0,
            size=(40, 32),
        )  # fmt: skip
        plain, completed = pipeline.generate(), pipeline.generate(kept_codes=kept)
    for response, made in ((responses[0], expected), (responses[1], plain), (responses[4], completed)):
        assert not response.has_error()
        images, codes = response.output_tensors()
        assert [images.name(), codes.name()] == [tensor.name for tensor in config.output] == ["images", "codes"]
        np.testing.assert_array_equal(images.as_numpy(), made.images)
        np.testing.assert_array_equal(codes.as_numpy(), made.codes)
    error = responses[2].error()
    assert "'nothing'" in error.message()
    assert error.code() == error.INVALID_ARG
    assert "n: found 2 values, wanted one" in responses[3].error().message()
    model.finalize()
    with pytest.raises(BundleError):
        model.pipeline.generate()


@pytest.mark.parametrize("kind", ["vq", "gumbel"])
def test_codes_are_those_of_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    run = make_checkpoint(tmp_path / "run", kind=kind, training_state=False)
    trt_vqgan.export_checkpoint(run, tmp_path / "bundle")
    write_repository(tmp_path / "bundle", tmp_path / "repository", name="small")
    assert not (tmp_path / "repository" / "small_generate").exists()
    config = read_config(tmp_path / "repository" / "small_codes")
    model = open_model(tmp_path / "repository" / "small_codes", as_triton_gives_it(config), monkeypatch)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)
    session = ort.InferenceSession(tmp_path / "repository" / "small_encoder" / "1" / "model.onnx")
    pixels = (images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    (encoded,) = session.run(None, {"image": pixels})
    (response,) = model.execute([request(**{config.input[0].name: encoded})])
    with trt_vqgan.load(tmp_path / "bundle") as pipeline:
        np.testing.assert_array_equal(response.output_tensors()[0].as_numpy(), pipeline.encode(images))
    (response,) = model.execute([request(other=encoded)])
    assert "wanted what the encoder puts out" in response.error().message()


def test_models_that_are_there_stay(repository: Path, bundle: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    with pytest.raises(ExportError, match="vqgan_encoder is there already; remove it, or give another --name"):
        write_repository(bundle, repository)
    assert before == {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    (tmp_path / "other").mkdir()
    write_repository(bundle, tmp_path, name="second")
    assert (tmp_path / "other").is_dir()
    assert len(list(tmp_path.iterdir())) == 6


def gpu_bundle(folder: Path, package: str) -> Path:
    """Return a bundle with graphs for GPUs, and records of engines that are only bytes."""
    run = make_checkpoint(folder / "run", kind="vq", training_state=False)
    trt_vqgan.export_checkpoint(run, folder / "bundle", gpu=True)
    manifest = read_manifest(folder / "bundle")
    records = []
    for graph in ("encoder", "decoder"):
        key = EngineKey(
            graph=graph, graph_sha256=manifest.gpu_graph_sha256(graph), package=package, version="10.13",
            targets=("sm90",), profiles=(),
        )  # fmt: skip
        path = folder / "bundle" / key.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(graph.encode())
        sha256 = trt_vqgan.manifest.record_file(path).sha256  # type: ignore[attr-defined]
        records.append(
            EngineRecord(key=key, sha256=sha256, size_bytes=len(graph), precisions={}, made_by="a test")
        )  # fmt: skip
    write_engine_records(folder / "bundle", records)
    return folder / "bundle"


def test_engines_of_a_target(tmp_path: Path) -> None:
    bundle = gpu_bundle(tmp_path, "tensorrt")
    write_repository(bundle, tmp_path / "repository", target="sm90")
    spec = read_manifest(bundle).model.autoencoder
    for name in ("encoder", "decoder"):
        assert (tmp_path / "repository" / f"vqgan_{name}" / "1" / "model.plan").read_bytes() == name.encode()
        config = read_config(tmp_path / "repository" / f"vqgan_{name}")
        assert (config.platform, list(config.instance_group[0].profile)) == ("tensorrt_plan", ["0"])
    side = spec.latent_size
    decoder = read_config(tmp_path / "repository" / "vqgan_decoder")
    assert (decoder.input[0].name, list(decoder.input[0].dims)) == ("latents", [side, side, spec.code_dim])
    codes = read_config(tmp_path / "repository" / "vqgan_codes")
    assert list(codes.input[0].dims) == [side, side, spec.code_dim]
    gumbel = encoder_config("e", dataclasses.replace(spec, quantizer="gumbel"), "tensorrt")
    assert gumbel["output"] == [{"name": "codes", "data_type": "TYPE_INT32", "dims": [side, side]}]
    with pytest.raises(EngineMismatchError, match="it has none for sm80"):
        write_repository(bundle, tmp_path / "again", target="sm80")


def test_engines_that_triton_can_not_load(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(EngineMismatchError, match=r"Triton loads engines of TensorRT, .* sm90 are by TensorRT-RTX"):
        write_repository(gpu_bundle(tmp_path, "tensorrt_rtx"), tmp_path / "repository", target="sm90")
    with pytest.raises(EngineMismatchError, match="no graphs for GPUs"):
        write_repository(bundle, tmp_path / "repository", target="sm90")
    assert not (tmp_path / "repository").exists()


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    arguments = ["export-triton", str(bundle), "-o", str(tmp_path / "models"), "--site-packages", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'models' / 'vqgan_generate'} (python)" in result.stdout
    program = (tmp_path / "models" / "vqgan_generate" / "1" / "model.py").read_text()
    assert f"site.addsitedir({str(tmp_path)!r})" in program
    compile(program, "model.py", "exec")
    assert CliRunner().invoke(main, arguments).exit_code == 1
    assert CliRunner().invoke(main, [*arguments, "--name", "../up"]).exit_code == 2


def test_text_format() -> None:
    text = to_text({"name": 'a "b"\\\n', "kind": Word("KIND_CPU"), "on": True, "dims": [1, -2], "none": {}, "x": 0.5})
    assert text == 'name: "a \\"b\\"\\\\\\n"\nkind: KIND_CPU\non: true\ndims: 1\ndims: -2\nnone {\n}\nx: 0.5\n'
    with pytest.raises(TypeError, match="name: found NoneType"):
        to_text({"name": None})


def test_a_wrong_config_is_noticed(repository: Path, tmp_path: Path) -> None:
    """The parser of these tests can fail: on a field that doesn't exist, and on a dtype that doesn't."""
    text = (repository / "vqgan_decoder" / "config.pbtxt").read_text()
    for wrong in (text.replace("max_batch_size", "max_batch"), text.replace("TYPE_FP32", "TYPE_FLOAT")):
        (tmp_path / "config.pbtxt").write_text(wrong)
        with pytest.raises(text_format.ParseError):
            read_config(tmp_path)
