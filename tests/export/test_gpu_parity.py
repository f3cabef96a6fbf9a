"""``verify`` on the graphs for GPUs: a good bundle passes, and a fault in any of them breaks its own rows."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import numpy_helper

from tests.export.autoencoder_cases import CASES, arrays_of, make_autoencoder, run
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.cli import main
from trt_vqgan.export.autoencoder_graph import codebook_key, encoder_graph
from trt_vqgan.export.exporter import export_checkpoint
from trt_vqgan.export.gpu_autoencoder import gpu_encoder_graph
from trt_vqgan.export.gpu_parity import GpuParity
from trt_vqgan.export.parity_rows import Tolerance, compare
from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.manifest import GpuGraphs, read_manifest, record_files, write_manifest

GPU_ROWS = {
    "gpu encoder image latents",
    "gpu decoder pixels",
    "gpu decoder, extreme codes",
    "gpu transformer logits",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its bundle."""
    folder = tmp_path_factory.mktemp("gpu_parity")
    checkpoint = make_checkpoint(folder / "run", kind="class")
    return checkpoint, export_checkpoint(checkpoint, folder / "bundle", gpu=True)


def verify(bundle: Path, checkpoint: Path) -> tuple[Result, dict[str, dict[str, object]]]:
    result = CliRunner().invoke(main, ["verify", str(bundle), "--against", str(checkpoint), "--json"])
    return result, {row["output"]: row for row in json.loads(result.stdout)}


def planted(made: tuple[Path, Path], folder: Path, fault: Callable[[Path], None]) -> Path:
    """Return a copy of the bundle with a fault in its folder ``gpu``, and a manifest that knows the changed files."""
    shutil.copytree(made[1], folder)
    fault(folder / "gpu")
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=record_files(folder)))
    return folder


def change_first_kernel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the largest weight of a graph."""
    model = onnx.load(str(path))
    tensor = max(model.graph.initializer, key=lambda each: math.prod(each.dims))
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    path.write_bytes(model.SerializeToString())


def shifted(path: Path) -> None:
    change_first_kernel(path, lambda weight: np.roll(weight, 1, axis=0))


def infinite(path: Path) -> None:
    """Values that FP16 can't hold: large weights, each of which fits."""
    change_first_kernel(path, lambda weight: np.full_like(weight, 60000))


def swapped_segments(folder: Path) -> None:
    first, second = folder / "segment_00.onnx", folder / "segment_01.onnx"
    model, other = onnx.load(str(first), load_external_data=False), onnx.load(str(second), load_external_data=False)
    wanted = {each.name: each for each in other.graph.initializer}
    for tensor in model.graph.initializer:  # the layer norm and QKV of layer 0 become those of layer 1
        name = tensor.name.replace("blocks.0", "blocks.1")
        if name in wanted:
            del tensor.external_data[:]
            tensor.external_data.extend(wanted[name].external_data)
    first.write_bytes(model.SerializeToString())


def test_a_bundle_for_gpus_is_within_tolerance(made: tuple[Path, Path]) -> None:
    result, rows = verify(made[1], made[0])
    assert result.exit_code == 0, result.output
    assert set(rows) >= GPU_ROWS | {"encoder image latents", "decoder pixels", "transformer logits"}
    assert all(row["ok"] for row in rows.values())
    for name in GPU_ROWS:
        assert 1e-6 < rows[name]["max_rel"] < 0.05, "rounding must show"
    assert rows["gpu decoder pixels"]["psnr_db"] > 45
    table = CliRunner().invoke(main, ["verify", str(made[1]), "--against", str(made[0])])
    assert "gpu transformer logits" in table.stdout
    assert "PSNR dB" in table.stdout


def test_a_bundle_for_the_cpu_has_no_such_rows(tmp_path: Path, made: tuple[Path, Path]) -> None:
    bundle = export_checkpoint(made[0], tmp_path / "bundle")
    assert not GPU_ROWS & set(verify(bundle, made[0])[1])


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (lambda gpu: shifted(gpu / "encoder.onnx"), {"gpu encoder image latents"}),
        (lambda gpu: shifted(gpu / "decoder.onnx"), {"gpu decoder pixels", "gpu decoder, extreme codes"}),
        (lambda gpu: infinite(gpu / "decoder.onnx"), {"gpu decoder pixels", "gpu decoder, extreme codes"}),
        (swapped_segments, {"gpu transformer logits"}),
    ],
    ids=["encoder", "decoder", "overflow", "segments"],
)
def test_a_fault_breaks_its_rows(
    tmp_path: Path, made: tuple[Path, Path], fault: Callable[[Path], None], broken: set[str]
) -> None:
    result, rows = verify(planted(made, tmp_path / "bundle", fault), made[0])
    assert result.exit_code == 1
    assert {name for name, row in rows.items() if not row["ok"]} == broken
    assert all(name in result.stderr for name in broken)


def test_a_graph_that_cannot_be_run_is_named(tmp_path: Path, made: tuple[Path, Path]) -> None:
    bundle = planted(made, tmp_path / "bundle", lambda gpu: (gpu / "decoder.onnx").write_bytes(b"no graph") and None)
    result = CliRunner().invoke(main, ["verify", str(bundle), "--against", str(made[0])])
    assert result.exit_code == 1
    assert "decoder.onnx: can't be run on the CPU" in result.stderr


def test_gumbel_codes(tmp_path: Path) -> None:
    spec = CASES["gumbel"]
    weights = arrays_of(make_autoencoder(spec))
    picture = sample_map(spec, spec.resolution)
    logits = run(encoder_graph(spec, weights), picture)
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "encoder.onnx").write_bytes(gpu_encoder_graph(spec, weights).SerializeToString())
    graphs = GpuGraphs(precision="fp16", graphs={"encoder": "gpu/encoder.onnx"})
    parity = GpuParity(tmp_path, graphs)
    codes, codebook = logits.argmax(axis=1), weights[codebook_key(spec)]
    row = parity.encoder("encoder", spec, picture, logits, codes, codebook)
    assert row.ok
    assert row.max_abs is None
    shifted(tmp_path / "gpu" / "encoder.onnx")
    assert not parity.encoder("encoder", spec, picture, logits, codes, codebook).ok


def test_rows_can_fail_by_each_limit() -> None:
    wanted = np.linspace(-1, 1, 64, dtype=np.float32)
    near = wanted + np.float32(0.01)
    assert compare("x", near, wanted, Tolerance(max_abs=0.02, max_rel=0.02, psnr_db=30)).ok
    assert not compare("x", near, wanted, Tolerance(max_abs=0.005)).ok
    assert not compare("x", near, wanted, Tolerance(max_rel=0.005)).ok
    found = compare("x", near, wanted, Tolerance(psnr_db=46.5))
    assert not found.ok
    assert found.psnr_db is not None
    assert found.psnr_db == pytest.approx(46.0, abs=0.1)  # 20 log10(2 / 0.01), a value clipped
    assert not compare("x", wanted, wanted, Tolerance(codes=0.9), (np.arange(4), np.array([0, 1, 2, 4]))).ok
    assert compare("x", wanted, wanted, Tolerance(psnr_db=45)).psnr_db is None
    for value in (np.nan, np.inf):
        broken = wanted.copy()
        broken[3] = value
        assert not compare("x", broken, wanted, Tolerance(psnr_db=5)).ok
        assert not compare("x", broken, wanted, Tolerance()).ok
