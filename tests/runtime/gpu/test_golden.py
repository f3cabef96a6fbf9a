"""The driver on the CPU, in fp32, against what the published code drew from the golden checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.runtime.gpu.small_engines import host_engine
from tests.runtime.gpu.small_networks import device_autoencoder, part_of
from tests.runtime.test_golden import CONDITION_ARGUMENTS, Golden, open_golden
from tests.tolerances import LOGITS_FP32, PICTURE_GREY_LEVELS
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.runtime.backend_choice import BackendChoice
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.gpu import opening
from trt_vqgan.runtime.gpu.code_generator import DeviceCodeGenerator
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.opening import GpuModels
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.runtime.gpu.turns import DeviceTurns
from trt_vqgan.runtime.pipeline import Pipeline, Preview, Progress
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_generator import WindowGenerator

GREEDY = Sampling(greedy=True)
DRAWN = Sampling(temperature=1.2, top_k=100, top_p=0.95)


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """A golden checkpoint on both paths: whole graph, and driver with segments."""

    golden: Golden
    engine: DeviceEngine
    generator: DeviceCodeGenerator

    @property
    def condition(self) -> np.ndarray:
        """Condition tokens int64 (1, L)."""
        return self.golden.condition.reshape(1, -1)


@pytest.fixture(scope="module", params=list(CONDITION_ARGUMENTS))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDevice]:
    folder = tmp_path_factory.mktemp("golden")
    golden = open_golden(request.param, folder)
    spec = golden.pipe.spec
    assert spec.transformer is not None
    engine = host_engine(folder, spec.transformer, open_checkpoint(golden.run).weights)
    with golden.pipe:
        yield OnDevice(golden, engine, DeviceCodeGenerator(spec, engine))
    engine.close()


def test_logits(opened: OnDevice) -> None:
    found = opened.generator.logits(opened.condition, opened.golden.expected["z_indices"].reshape(1, -1))
    np.testing.assert_allclose(found, opened.golden.expected["logits"], atol=LOGITS_FP32, rtol=0)


def test_greedy_codes_alone_and_in_a_batch(opened: OnDevice) -> None:
    """Beside rows that differ, and beside an equal one, which shares its prefill."""
    cond = opened.condition
    others = np.random.default_rng(0).integers(0, 10, (1, cond.shape[1]))
    batch = np.concatenate([others, cond, cond])
    wanted = opened.golden.expected["greedy_indices"][0]
    found = opened.generator.generate(batch, sampling=GREEDY, seed=0, pictures=np.arange(3)).reshape(3, -1)
    np.testing.assert_array_equal(found[1], wanted)
    np.testing.assert_array_equal(found[2], wanted)
    alone = opened.generator.generate(cond, sampling=GREEDY, seed=0, pictures=np.arange(1))
    np.testing.assert_array_equal(alone.reshape(-1), wanted)


def test_greedy_codes_of_pictures_that_share_their_condition(opened: OnDevice) -> None:
    """Kept once, beside another condition, and read by both of its pictures."""
    cond = opened.condition
    batch = np.concatenate([cond, (cond + 1) % 10, cond])
    with opened.engine.sharing_from(1):
        found = opened.generator.generate(batch, sampling=GREEDY, seed=0, pictures=np.arange(3)).reshape(3, -1)
    assert any(size.prefix is not None for size in opened.engine._plans._plans)
    for row in (0, 2):
        np.testing.assert_array_equal(found[row], opened.golden.expected["greedy_indices"][0])


def test_completion_of_a_kept_half(opened: OnDevice) -> None:
    kept = np.full((1, 256), FREE)
    kept[:, :128] = opened.golden.expected["z_indices"][:, :128]
    found = opened.generator.generate(opened.condition, sampling=GREEDY, seed=0, pictures=np.arange(1), kept=kept)
    np.testing.assert_array_equal(found.reshape(1, -1), opened.golden.expected["completion_indices"])


def test_rows_of_different_lengths_in_one_batch(opened: OnDevice) -> None:
    """A picture from its first code, one from its middle, one from near its end: all at once."""
    expected, cond = opened.golden.expected, opened.condition[0]
    greedy, completed = expected["greedy_indices"][0], expected["completion_indices"][0]
    rows = [(greedy, 0), (completed, 128), (greedy, 250)]
    spec = opened.golden.pipe.spec
    drawing = Drawing(
        prefixes=tuple(np.concatenate([cond, codes[:start]]) for codes, start in rows),
        codes=np.full((3, 256), FREE),
        starts=np.array([start for _, start in rows]),
        ends=np.full(3, 256),
        code_positions=opened.generator.positions,
        sampling=(GREEDY,) * 3,
        seeds=(0,) * 3,
        pictures=np.arange(3),
        guidance_scale=None,
        codebook_size=spec.autoencoder.codebook_size,
    )
    found = opened.engine.draw(drawing)
    for row, (codes, start) in enumerate(rows):
        np.testing.assert_array_equal(found[row, start:], codes[start:])


def test_drawn_codes_are_those_of_the_whole_graph(opened: OnDevice) -> None:
    settings: dict[str, Any] = {"sampling": DRAWN, "seed": 11, "pictures": np.arange(2)}
    cond = np.repeat(opened.condition, 2, axis=0)
    whole = opened.golden.pipe._checked_generator().generate(cond, **settings)
    np.testing.assert_array_equal(opened.generator.generate(cond, **settings), whole)


def test_large_pictures_are_those_of_the_whole_graph(opened: OnDevice) -> None:
    """Under the window planner: 16 x 18 codes, windows that share caches, greedy and drawn."""
    spec = opened.golden.pipe.spec
    if spec.condition is None or spec.condition.num_tokens > 1:
        pytest.skip("the condition of a larger picture needs a grid of its own; one kind of model is enough here")
    cond = opened.condition

    def condition(row: int, column: int) -> np.ndarray:
        return cond

    kept = np.random.default_rng(0).integers(0, spec.autoencoder.codebook_size, (1, 16, 18))
    kept[:, 14:] = FREE
    found = [
        WindowGenerator(spec, engine).generate(condition, kept=kept, sampling=DRAWN, seed=3, pictures=np.arange(1))
        for engine in (opened.engine, opened.golden.pipe._checked_generator().engine)
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_the_pipeline_on_a_device(opened: OnDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if opened.golden.name != "class":
        pytest.skip("one kind of model is enough")
    pipe, turns = opened.golden.pipe, DeviceTurns(opened.engine.device)
    weights = part_of(open_checkpoint(opened.golden.run).weights, "first_stage.")
    networks: Any = device_autoencoder(tmp_path, pipe.spec.autoencoder, weights).networks
    on_gpu = GpuModels(turns=turns, engine=opened.engine, networks={"encoder": networks})
    monkeypatch.setattr(opening, "open_on_gpu", lambda choice, folder, manifest, vqgans: on_gpu)
    monkeypatch.setattr(opened.engine, "close", lambda: None)  # other tests go on with it
    seen: list[Any] = []
    with Pipeline(pipe._folder, pipe.manifest, threads=1, choice=BackendChoice(name="cuda", gpu=0)) as on_device:
        assert on_device.backend == "cuda"
        runtime = f"ONNX Runtime {ort.__version__}, CPU, CPU"
        assert on_device.backend_details == f"cuda ({runtime}; encoder and decoder: {runtime})"
        assert on_device.precision == "fp16", "what stands for the GPU here says so"
        result = on_device.generate(
            condition_codes=opened.golden.condition, greedy=True, on_progress=seen.append, on_preview=seen.append
        )
    np.testing.assert_array_equal(result.codes.reshape(1, -1), opened.golden.expected["greedy_indices"])
    assert np.abs(result.images.astype(int) - pipe.decode(result.codes)).max() <= PICTURE_GREY_LEVELS
    previews = [item.done_codes for item in seen if isinstance(item, Preview)]
    assert previews == list(range(16, 256, 16))
    assert max(item.done_codes for item in seen if isinstance(item, Progress)) == 256
