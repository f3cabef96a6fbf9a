"""The stated peak of the windows' caches against what a generation reports, and what a bound leads to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.gpu.small_engines import make_device_model
from tests.runtime.small_models import SmallModel, make_model, small_autoencoder
from trt_vqgan.errors import BackendUnavailableError, ShapeError
from trt_vqgan.runtime.code_generator import FREE
from trt_vqgan.runtime.engine import Engine
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.large_pictures import Windows
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_generator import WindowGenerator, WindowReport
from trt_vqgan.runtime.window_memory import (
    SHARE_OF_AVAILABLE,
    peak_window_bytes,
    window_bytes,
    windows_alive,
    within_memory,
)
from trt_vqgan.runtime.window_plan import plan_windows
from trt_vqgan.spec import ConditionSpec, ModelSpec, TransformerSpec

SIDE = 4
TRANSFORMER = TransformerSpec(vocab_size=61, max_seq_len=200, num_layers=2, num_heads=2, hidden_size=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"))


def class_spec(model: SmallModel) -> ModelSpec:
    condition = ConditionSpec(kind="class", num_tokens=1, num_classes=5)
    return ModelSpec(autoencoder=small_autoencoder(SIDE, 40), transformer=model.spec, condition=condition)


def report_of(spec: ModelSpec, model: SmallModel, height: int, width: int, batch: int, **options: Any) -> WindowReport:
    report = WindowReport()
    WindowGenerator(spec, model.engine).generate(
        lambda i, j: np.full((batch, 1), 3), kept=np.full((batch, height, width), FREE), seed=1,
        sampling=Sampling(), pictures=np.arange(batch), report=report, **options,
    )  # fmt: skip
    return report


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(4, 11), (9, 4), (6, 9)])
def test_the_formula_is_the_peak(model: SmallModel, height: int, width: int, shift: int, batch: int) -> None:
    spec = class_spec(model)
    report = report_of(spec, model, height, width, batch, shift=shift)
    assert report.peak_cache_bytes == peak_window_bytes(spec, model.engine, width, rows=batch, shift=shift)


def test_a_wide_grid_stays_below_the_formula(model: SmallModel) -> None:
    """Beyond side x side / 2 columns the first windows are done before the last ones begin."""
    spec = class_spec(model)
    report = report_of(spec, model, 6, 24, 1)
    assert (
        0.3 * peak_window_bytes(spec, model.engine, 24, rows=1)
        < report.peak_cache_bytes
        < peak_window_bytes(spec, model.engine, 24, rows=1)
    )


def test_guidance_takes_twice(model: SmallModel) -> None:
    spec = class_spec(model)
    guidance = Guidance(scale=2.0, null_condition=np.array([4]))
    report = report_of(spec, model, 6, 9, 2, guidance=guidance)
    assert report.peak_cache_bytes == peak_window_bytes(spec, model.engine, 9, rows=4)


def test_the_formula_in_numbers(model: SmallModel) -> None:
    """2 layers of width 64, one token and 16 codes in one bucket of 64 positions, keys and values of 4 bytes."""
    spec = class_spec(model)
    assert window_bytes(spec, model.engine) == 2 * 4 * 2 * 64 * 64
    assert [windows_alive(spec, width) for width in (4, 5, 30)] == [1, 2, 27]


@settings(max_examples=60, deadline=None)
@given(
    side=st.sampled_from([4, 6]), height=st.integers(0, 9), width=st.integers(0, 14), shift=st.integers(1, 3),
    boxes=st.booleans(), keep=st.floats(0, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_more_windows_are_alive(
    side: int, height: int, width: int, shift: int, boxes: bool, keep: float, seed: int
) -> None:
    """Whatever is kept: at every step, windows that stay and those of the step, against the formula."""
    shape = side + height, side + width
    shift = min(shift, side - side // 2)
    free = np.random.default_rng(seed).random(shape) >= keep
    steps = plan_windows(free, side=side, rule="margin" if boxes else "centred", shift=shift)
    staying: set[tuple[int, int]] = set()
    most = 0
    for step in steps:
        most = max(most, len(staying | {task.origin for task in step}))
        staying |= {task.origin for task in step if task.more}
        staying -= {task.origin for task in step if not task.more}
    condition = ConditionSpec(kind="boxes" if boxes else "class", num_tokens=3, num_classes=5)
    spec = ModelSpec(autoencoder=small_autoencoder(side, 8), condition=condition, transformer=TRANSFORMER)
    assert most <= windows_alive(spec, shape[1], shift=shift)


class Watched:
    """An engine that counts the bytes of the caches that are alive, by what their arrays hold."""

    def __init__(self, engine: Any, held: Callable[[Any], int]) -> None:
        self._engine, self._held = engine, held
        self._caches: weakref.WeakSet[Any] = weakref.WeakSet()
        self.peak = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def new_cache(self, *, batch: int, capacity: int) -> Any:
        cache = self._engine.new_cache(batch=batch, capacity=capacity)
        self._caches.add(cache)
        self.peak = max(self.peak, sum(self._held(each) for each in self._caches))
        return cache


class HalfCounting(Watched):
    """A planted fault: an engine that says half of what its caches take."""

    def cache_bytes(self, *, batch: int, capacity: int) -> int:
        return int(self._engine.cache_bytes(batch=batch, capacity=capacity)) // 2


def watched(name: str, folder: Path) -> tuple[ModelSpec, Any, Callable[[Any], int]]:
    """Return a small model, an engine of that name, and what tells the bytes that one of its caches holds."""
    small = make_model(folder)
    if name == "onnxruntime":
        return class_spec(small), small.engine, lambda cache: sum(each.nbytes for each in cache._buffers)
    if name == "device":
        return class_spec(small), make_device_model(folder).engine, lambda cache: int(cache._values.memory.nbytes)
    try:
        native = NativeEngine(folder / "transformer.onnx", small.spec, threads=2)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    return class_spec(small), native, lambda cache: int(cache.keys.nbytes + cache.values.nbytes)


def peak_within(spec: ModelSpec, engine: Watched, bound: int | None) -> WindowReport:
    report = WindowReport()
    WindowGenerator(spec, cast(Engine, engine)).generate(
        lambda i, j: np.full((2, 1), 3), kept=np.full((2, 6, 7), FREE), seed=1, sampling=Sampling(),
        pictures=np.arange(2), memory_bytes=bound, report=report,
    )  # fmt: skip
    return report


@pytest.mark.parametrize("name", ["onnxruntime", "native", "device"])
def test_the_bound_is_on_what_each_engine_really_holds(tmp_path: Path, name: str) -> None:
    spec, engine, held = watched(name, tmp_path)
    one = window_bytes(spec, engine)
    for bound in (None, 2 * one, 6 * one):
        counting = Watched(engine, held)
        report = peak_within(spec, counting, bound)
        assert counting.peak == report.peak_cache_bytes
        assert bound is None or 0 < counting.peak <= bound
    wrong = HalfCounting(engine, held)
    peak_within(spec, wrong, 6 * one)
    assert wrong.peak > 6 * one, "a wrong count isn't seen"


def test_a_gpu_holds_half_of_what_the_cpu_does(model: SmallModel, tmp_path: Path) -> None:
    """Its numbers are float16, so that within one bound twice as many pictures are made at once."""
    spec, engine = class_spec(model), make_device_model(tmp_path).engine
    engine.number = np.dtype(np.float16)
    one = window_bytes(spec, model.engine)
    assert window_bytes(spec, engine) * 2 == one
    bound = Windows(memory_bytes=2 * (windows_alive(spec, 9) + 1) * one)
    pictures = [
        within_memory(spec, each, bound, 9, batch_size=8, rows_a_picture=1)[0] for each in (model.engine, engine)
    ]
    assert pictures == [2, 4]


@pytest.mark.parametrize("windows", [1, 2, 3, 5])
def test_a_bound_holds(model: SmallModel, windows: int) -> None:
    spec = class_spec(model)
    bound = 2 * windows * window_bytes(spec, model.engine)
    report = report_of(spec, model, 9, 9, 2, memory_bytes=bound)
    assert 0 < report.peak_cache_bytes <= bound
    assert report.windows_recomputed > 0


def test_one_window_more_than_are_alive_shares_all(model: SmallModel) -> None:
    spec = class_spec(model)
    bound = (windows_alive(spec, 9) + 1) * window_bytes(spec, model.engine)
    report = report_of(spec, model, 9, 9, 1, memory_bytes=bound)
    assert report.windows_recomputed == 0


def test_fewer_pictures_come_before_windows_computed_again(model: SmallModel) -> None:
    spec = class_spec(model)
    one = window_bytes(spec, model.engine)
    alive = windows_alive(spec, 9)
    for pictures in (1, 2, 5):
        bound = pictures * (alive + 1) * one
        found = within_memory(spec, model.engine, Windows(memory_bytes=bound), 9, batch_size=8, rows_a_picture=1)
        assert found == (pictures, Windows(memory_bytes=bound))
        found = within_memory(spec, model.engine, Windows(memory_bytes=2 * bound), 9, batch_size=8, rows_a_picture=2)
        assert found[0] == pictures
    assert within_memory(spec, model.engine, Windows(memory_bytes=one), 9, batch_size=8, rows_a_picture=1)[0] == 1
    plain = within_memory(
        spec, model.engine, Windows(plan="plain", memory_bytes=3 * one), 9, batch_size=8, rows_a_picture=1
    )
    assert plain[0] == 3
    with pytest.raises(ShapeError, match="one window's cache takes 1 MB, found 1 MB; wanted at least that"):
        within_memory(spec, model.engine, Windows(memory_bytes=2 * one - 1), 9, batch_size=8, rows_a_picture=2)


def test_the_available_memory_is_the_bound_where_nobody_gives_one(model: SmallModel) -> None:
    spec = class_spec(model)
    needed = int(4 * (windows_alive(spec, 9) + 1) * window_bytes(spec, model.engine) / SHARE_OF_AVAILABLE) + 1
    arguments: dict[str, Any] = {"batch_size": 4, "rows_a_picture": 1}
    assert within_memory(spec, model.engine, Windows(), 9, available=needed, **arguments) == (4, Windows())
    pictures, windows = within_memory(spec, model.engine, Windows(), 9, available=needed - 8, **arguments)
    assert pictures == 3
    assert windows.memory_bytes == int(SHARE_OF_AVAILABLE * (needed - 8))
    with pytest.raises(ShapeError, match="found 1 MB available; free some memory"):
        within_memory(spec, model.engine, Windows(), 9, available=1000, **arguments)
