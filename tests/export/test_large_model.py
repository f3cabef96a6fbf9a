"""A model of 1.4 billion parameters through export and one picture, on a machine of 24 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
import trt_vqgan
from trt_vqgan.export.exporter import write_graphs
from trt_vqgan.export.graph_builder import LazyArray
from trt_vqgan.export.key_shapes import expected_shapes
from trt_vqgan.manifest import MadeBy, Manifest, record_files, write_manifest
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec

def peak_mb():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1e3

class RandomWeights(dict):
    '''Weights made when they are asked for, always the same for a key.'''
    def __getitem__(self, key):
        shape = super().__getitem__(key)
        if key.endswith("bias"):
            return np.zeros(shape, np.float32)
        if ".ln" in key or ".norm" in key:
            return np.ones(shape, np.float32)
        rng = np.random.default_rng(abs(hash(key)) % (1 << 32))
        scale = 0.02 if key.startswith("transformer") else 1 / np.sqrt(np.prod(shape[1:]))
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        return values

folder, step = Path(sys.argv[1]), sys.argv[2]
if step == "export":
    spec = ModelSpec(
        autoencoder=AutoencoderSpec(
            quantizer="nearest", in_channels=3, out_channels=3, base_channels=128, channel_multipliers=(1, 1, 2, 2, 4),
            num_res_blocks=2, attention_resolutions=(16,), resolution=256, z_channels=256, code_dim=256,
            codebook_size=16384,
        ),
        transformer=TransformerSpec(
            vocab_size=16384, max_seq_len=256, num_layers=48, num_heads=24, hidden_size=1536
        ),
        condition=ConditionSpec(kind="class", num_tokens=1, num_classes=1000),
    )
    shapes = expected_shapes(spec)
    parameters = sum(int(np.prod(s)) for k, s in shapes.items() if k.startswith("transformer."))
    folder.mkdir()
    start = time.perf_counter()
    graphs, precisions = write_graphs(folder, spec, RandomWeights(shapes), precision=sys.argv[3])
    seconds = time.perf_counter() - start
    made_by = MadeBy(version=trt_vqgan.__version__, checkpoint="random", checkpoint_sha256="0" * 64)
    write_manifest(folder, Manifest(model=spec, graphs=graphs, files=record_files(folder), made_by=made_by,
                                    precision=precisions))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(json.dumps({"parameters": parameters, "seconds": seconds, "peak_mb": peak_mb(), "bundle_mb": size / 1e6}))
else:
    start = time.perf_counter()
    with trt_vqgan.load(folder) as pipe:
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        result = pipe.generate(n=1, class_id=7, top_k=100)
        seconds = time.perf_counter() - start
    print(json.dumps({"load_seconds": loaded, "picture_seconds": seconds, "peak_mb": peak_mb(),
                      "shape": result.images.shape, "codes_used": len(np.unique(result.codes))}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_largest_published_shape(tmp_path: Path, precision: str) -> None:
    """16384 codes, 256 positions, 48 layers, 24 heads, width 1536, random weights."""
    folder = tmp_path / "bundle"
    exported = run(folder, "export", precision)
    made = run(folder, "generate")
    print(json.dumps({"precision": precision, "export": exported, "generate": made}))
    assert exported["parameters"] > 1.4e9
    assert exported["peak_mb"] < 3000, "export may hold a few tensors at a time, not the model"
    assert made["peak_mb"] < exported["bundle_mb"] + 1300, "bundle + cache 75 MB + decoder 900 MB + 300 MB"
    assert made["shape"] == [1, 256, 256, 3]
    assert made["codes_used"] > 20


def run(folder: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict = json.loads(done.stdout.splitlines()[-1])
    return result
