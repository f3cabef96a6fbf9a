"""A model of 305 million parameters from random weights to engines, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed: pip install 'trt-vqgan[tensorrt-rtx]'")

SCRIPT = """
import json, sys, time
from pathlib import Path
import numpy as np
import trt_vqgan
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.export import bundle_engines
from trt_vqgan.export.gpu_graphs import write_gpu_graphs
from trt_vqgan.export.key_shapes import expected_shapes
from trt_vqgan.manifest import MadeBy, Manifest, record_files, write_manifest
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec
from trt_vqgan.tensorrt_package import RTX, find_tensorrt

def peak_mb():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1e3

folder, step = Path(sys.argv[1]), sys.argv[2]
start = time.perf_counter()
if step == "export":
    spec = ModelSpec(
        autoencoder=AutoencoderSpec(
            quantizer="nearest", in_channels=3, out_channels=3, base_channels=128, channel_multipliers=(1, 1, 2, 2, 4),
            num_res_blocks=2, attention_resolutions=(16,), resolution=256, z_channels=256, code_dim=256,
            codebook_size=1024,
        ),
        transformer=TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=24, num_heads=16, hidden_size=1024),
        condition=ConditionSpec(kind="class", num_tokens=1, num_classes=1000),
    )
    weights = RandomWeights(spec)
    folder.mkdir()
    gpu = write_gpu_graphs(folder, spec, weights)
    made_by = MadeBy(version=trt_vqgan.__version__, checkpoint="random", checkpoint_sha256="0" * 64)
    write_manifest(folder, Manifest(model=spec, graphs={}, files=record_files(folder), made_by=made_by, gpu=gpu))
    shapes = expected_shapes(spec)
    result = {"parameters": sum(int(np.prod(s)) for k, s in shapes.items() if k.startswith("transformer.")),
              "wider": gpu.wider,
              "gpu_mb": sum(f.stat().st_size for f in (folder / "gpu").iterdir()) / 1e6}
else:
    bundle_engines.find_tensorrt = lambda: find_tensorrt(RTX)
    report = bundle_engines.build_engines(folder)
    result = {"engines": len(report.built), "build_seconds": report.seconds,
              "engines_mb": sum(r.size_bytes for r in report.built.values()) / 1e6, "targets": report.targets}
print(json.dumps(result | {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}))
"""


@pytest.mark.slow
def test_a_full_size_model(tmp_path: Path) -> None:
    """1024 codes, 512 positions, 24 layers, 16 heads, width 1024, and the published f16 VQGAN; all four targets."""
    folder = tmp_path / "bundle"
    exported, built = run(folder, "export"), run(folder, "build")
    print(json.dumps({"export": exported, "build": built}))
    assert 3.0e8 < exported["parameters"] < 3.1e8
    assert not exported["wider"]
    assert exported["gpu_mb"] < 1.02 * (2 * exported["parameters"] / 1e6 + 150), "FP16, and the VQGAN's 75 M parameters"
    assert exported["peak_mb"] < 3500, "export may hold a few tensors and the decoder's activations, not the model"
    assert built["engines"] == 24 + 1 + 2
    assert built["engines_mb"] < 1.1 * exported["gpu_mb"] + 100, "one engine a graph for all targets"
    assert built["peak_mb"] < 3000, "one engine at a time"


def run(folder: Path, step: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), step], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict = json.loads(done.stdout.splitlines()[-1])
    return result
