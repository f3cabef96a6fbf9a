"""Floors and the arithmetic of rows, against figures counted by hand before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trt_vqgan.benchmarks.gpu_check.device_memory import copies_beyond_cache, halves
from trt_vqgan.benchmarks.gpu_check.floors import Ceilings, Work, step_weight_bytes, step_work
from trt_vqgan.benchmarks.gpu_check.records import bench_row
from trt_vqgan.benchmarks.gpu_check.step_times_stage import CODES, SHAPES, a_drawing, random_tensors
from trt_vqgan.runtime.gpu.weights import read_transformer_weights
from trt_vqgan.spec import TransformerSpec

SPECS = {
    "6x256": TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=6, num_heads=8, hidden_size=256),
    "24x1024": TransformerSpec(vocab_size=1024, max_seq_len=512, num_layers=24, num_heads=16, hidden_size=1024),
    "48x1536": TransformerSpec(vocab_size=16384, max_seq_len=512, num_layers=48, num_heads=24, hidden_size=1536),
}
POSITIONS = {"6x256": 384, "24x1024": 384, "48x1536": 129}

# Weights and cache in MB, GFLOP, and the floor in microseconds at 3.0 TB/s, 1.8 and 0.92: counted by hand.
TABLE = [
    ("6x256", 1, 0, 10, 2.4, None, (4.1, 7, 13)),
    ("6x256", 8, 0, 10, 19, None, (9.6, 16, 31)),
    ("6x256", 64, 0, 10, 151, 0.8, (54, 89, 175)),
    ("24x1024", 1, 0, 607, 38, 0.6, (215, 358, 700)),
    ("24x1024", 8, 0, 607, 302, 5.2, (303, 505, 988)),
    ("24x1024", 64, 0, 607, 2416, 41, (1008, 1679, 3286)),
    ("24x1024", 64, 256, 607, 831, 41, (479, 798, 1562)),
    ("48x1536", 1, 0, 2770, 38, 2.8, (936, 1560, 3052)),
    ("48x1536", 8, 0, 2770, 304, 23, (1025, 1708, 3342)),
    ("48x1536", 64, 0, 2770, 2435, 180, (1735, 2892, 5658)),
]


@pytest.mark.parametrize(("name", "batch", "shared", "weights", "cache", "gflop", "floors"), TABLE)
def test_floors_of_a_step(
    name: str, batch: int, shared: int, weights: float, cache: float, gflop: float | None, floors: tuple[float, ...]
) -> None:
    spec = SPECS[name]
    work = step_work(spec, batch=batch, positions=POSITIONS[name], shared=shared)
    assert step_weight_bytes(spec) / 1e6 == pytest.approx(weights, rel=0.01)
    assert (work.bytes - step_weight_bytes(spec)) / 1e6 == pytest.approx(cache, rel=0.02)
    if gflop is not None:
        assert work.flop / 1e9 == pytest.approx(gflop, rel=0.08)
    for (read, fp16), floor in zip(((3.0e12, 800e12), (1.8e12, 280e12), (0.92e12, 160e12)), floors, strict=True):
        found = Ceilings(read=read, fp16=fp16).floor_us(work)
        assert found == pytest.approx(floor, rel=0.032)  # the table is rounded


def test_the_larger_limit_is_the_floor() -> None:
    ceilings = Ceilings.of({"read": 1000.0, "fp16": 100.0, "gap_us": 1.0})
    assert ceilings.floor_us(Work(bytes=10**9, flop=10**9)) == pytest.approx(1000)
    assert ceilings.floor_us(Work(bytes=10**3, flop=10**12)) == pytest.approx(10_000)
    assert ceilings.floor_us(Work()) is None
    assert Ceilings.of({}).floor_us(Work(bytes=1, flop=1)) is None


def test_a_row() -> None:
    seconds = [i * 1e-6 for i in range(10, 30)]
    row = bench_row("x", "y", seconds, Work(bytes=10_000_000), Ceilings.of({"read": 1000.0}), [5e-5, 4e-5, 6e-5])
    assert (row.median_us, row.p10, row.floor_us, row.baseline_us) == pytest.approx((19.5, 12, 10, 50))
    assert row.of_floor == pytest.approx(10 / 19.5)
    assert row.p10 < row.median_us < row.p90
    bare = bench_row("x", "y", seconds, Work(bytes=1), Ceilings.of({}))
    assert (bare.floor_us, bare.of_floor, bare.baseline_us) == (None, None, None)


def test_copies_exceed_the_cache() -> None:
    assert copies_beyond_cache(1 << 20, l2=50 << 20) == 128
    assert copies_beyond_cache(10 << 20, l2=50 << 20) == 15
    assert copies_beyond_cache(1 << 30, l2=50 << 20) == 2
    assert halves((3, 5)).shape == (3, 5)
    assert halves((3, 1 << 21)).astype(np.float32).std() == pytest.approx(1, abs=0.01)


def test_random_models_are_what_the_executors_read() -> None:
    for shape in SHAPES:
        spec = dataclasses.replace(shape.spec, num_layers=1, hidden_size=64, num_heads=2, vocab_size=50)
        tensors = random_tensors(spec)
        assert tensors["blocks.0.mlp.2.weight"].shape == (64, 256)
        assert set(tensors) == names_in_a_bundle(spec)


def names_in_a_bundle(spec: TransformerSpec) -> set[str]:
    """Return the names that a bundle's weights need, from the reader's own complaints."""
    from trt_vqgan.runtime.gpu import weights

    asked: set[str] = set()

    class Asked(dict[str, np.ndarray]):
        """Has every name, and notes it."""

        def __contains__(self, name: object) -> bool:
            asked.add(str(name))
            return True

        def __getitem__(self, name: str) -> np.ndarray:
            return tensors[name]

    tensors = random_tensors(spec)
    original = weights.read_tensors
    weights.read_tensors = lambda path: Asked()  # type: ignore[assignment]
    try:
        read_transformer_weights(None, spec)  # type: ignore[arg-type]
    finally:
        weights.read_tensors = original
    return asked


def test_a_drawing_stands_in_the_middle_of_its_pictures() -> None:
    for shape in SHAPES:
        drawing = a_drawing(shape, batch=3, done=CODES // 2)
        assert len(drawing.prefixes[0]) == shape.mean_positions
        assert drawing.positions <= shape.spec.max_seq_len
        assert len({prefix.tobytes() for prefix in drawing.prefixes}) == 3
