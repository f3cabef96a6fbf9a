"""Windows that share work against the published rule kept plain, and against themselves in every other arrangement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.plain_window import plain_window
from tests.runtime.small_models import SmallModel, make_model, small_autoencoder
from trt_vqgan.errors import ShapeError, SpecError
from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.window_generator import WindowGenerator, WindowReport
from trt_vqgan.spec import ConditionSpec, ModelSpec

SIDE = 4
CODES = 40
GREEDY = Sampling(greedy=True)
DRAWN = Sampling(top_k=20, top_p=0.95)
SIZES = [(4, 4), (4, 11), (9, 4), (5, 8), (7, 6), (4, 30)]


def model_spec(model: SmallModel, kind: str, num_tokens: int, **options: Any) -> ModelSpec:
    autoencoder = small_autoencoder(SIDE, CODES)
    condition = ConditionSpec(kind=kind, num_tokens=num_tokens, num_classes=5)  # type: ignore[arg-type]
    return ModelSpec(autoencoder=autoencoder, transformer=model.spec, condition=condition, **options)


def windows_of(grid: np.ndarray) -> Any:
    return lambda i, j: grid[:, i : i + SIDE, j : j + SIDE].reshape(len(grid), -1)


def condition_grid(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(7).integers(0, CODES, (batch, height, width))


def all_free(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.full((batch, height, width), FREE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"))


def generate(spec: ModelSpec, model: SmallModel, condition: Any, kept: np.ndarray, **options: Any) -> np.ndarray:
    settings = {"sampling": GREEDY, "seed": 1, "pictures": np.arange(len(kept))} | options
    return WindowGenerator(spec, model.engine).generate(condition, kept=kept, **settings)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("plan", ["exact", "plain"])
def test_conditional_models_follow_the_published_rule(model: SmallModel, height: int, width: int, plan: str) -> None:
    spec = model_spec(model, "unconditional", 16)
    condition = windows_of(condition_grid(height, width))
    kept = all_free(height, width)
    wanted = plain_window(model.reference, condition, kept[0], side=SIDE, codebook_size=CODES)
    np.testing.assert_array_equal(generate(spec, model, condition, kept, plan=plan)[0], wanted)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_class_and_unconditional_models(model: SmallModel, height: int, width: int) -> None:
    spec = model_spec(model, "class", 1)
    kept = all_free(height, width)

    def condition(i: int, j: int) -> np.ndarray:
        return np.array([[3]])

    wanted = plain_window(model.reference, condition, kept[0], side=SIDE, codebook_size=CODES)
    np.testing.assert_array_equal(generate(spec, model, condition, kept)[0], wanted)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_box_models_follow_their_own_rule(model: SmallModel, height: int, width: int) -> None:
    spec = model_spec(model, "boxes", 6)
    kept = all_free(height, width)

    def condition(i: int, j: int) -> np.ndarray:
        return np.array([[i, j, i + j, 1, 2, 3]])

    wanted = plain_window(model.reference, condition, kept[0], side=SIDE, codebook_size=CODES, boxes=True)
    np.testing.assert_array_equal(generate(spec, model, condition, kept)[0], wanted)


@pytest.mark.parametrize("num_unmasked", [10, 16, 20, 40])
def test_a_prefix_that_sees_both_ways(tmp_path: Path, num_unmasked: int) -> None:
    model = make_model(tmp_path, num_unmasked=num_unmasked)
    spec = model_spec(model, "unconditional", 16)
    condition = windows_of(condition_grid(6, 7))
    found = generate(spec, model, condition, all_free(6, 7))
    np.testing.assert_array_equal(found, generate(spec, model, condition, all_free(6, 7), plan="plain"))
    if num_unmasked <= 16:
        wanted = plain_window(model.reference, condition, all_free(6, 7)[0], side=SIDE, codebook_size=CODES)
        np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_no_arrangement_changes_a_bit(tmp_path: Path, precision: str) -> None:
    """Drawn codes: plain and exact, alone and together, with and without room for caches."""
    model = make_model(tmp_path, precision=precision)
    spec = model_spec(model, "unconditional", 16)
    grid = condition_grid(9, 13, batch=3)
    plain = np.concatenate(
        [
            generate(
                spec,
                model,
                windows_of(grid[n : n + 1]),
                all_free(9, 13),
                plan="plain",
                sampling=DRAWN,
                pictures=np.array([n]),
            )
            for n in range(3)
        ]
    )
    assert len({picture.tobytes() for picture in plain}) == 3
    together = generate(spec, model, windows_of(grid), all_free(9, 13, 3), sampling=DRAWN)
    np.testing.assert_array_equal(together, plain)
    report = WindowReport()
    for memory_bytes in (0, 200_000, 1_000_000):
        found = generate(
            spec,
            model,
            windows_of(grid),
            all_free(9, 13, 3),
            sampling=DRAWN,
            memory_bytes=memory_bytes,
            report=report,
        )
        np.testing.assert_array_equal(found, plain)
    assert report.windows_recomputed > 0


def test_the_training_size_is_the_ordinary_generation(model: SmallModel) -> None:
    spec = model_spec(model, "unconditional", 16)
    cond = condition_grid(SIDE, SIDE, batch=2)
    wanted = CodeGenerator(spec, model.engine).generate(
        cond.reshape(2, -1), sampling=DRAWN, seed=1, pictures=np.arange(2)
    )
    found = generate(spec, model, windows_of(cond), all_free(SIDE, SIDE, 2), sampling=DRAWN)
    np.testing.assert_array_equal(found, wanted)


def test_kept_codes_stay_and_are_seen(model: SmallModel) -> None:
    spec = model_spec(model, "unconditional", 16)
    condition = windows_of(condition_grid(7, 9))
    kept = all_free(7, 9)
    kept[0, :3] = np.random.default_rng(0).integers(0, CODES, (3, 9))
    kept[0, 5, 4] = 11
    wanted = plain_window(model.reference, condition, kept[0], side=SIDE, codebook_size=CODES)
    np.testing.assert_array_equal(generate(spec, model, condition, kept)[0], wanted)
    np.testing.assert_array_equal(wanted[:3], kept[0, :3])


@pytest.mark.parametrize("plan", ["exact", "plain"])
def test_pictures_that_keep_different_codes(model: SmallModel, plan: str) -> None:
    spec = model_spec(model, "unconditional", 16)
    grid, rng = condition_grid(7, 9, batch=3), np.random.default_rng(4)
    kept = np.where(rng.random((3, 7, 9)) < 0.4, rng.integers(0, CODES, (3, 7, 9)), FREE)
    found = generate(spec, model, windows_of(grid), kept, plan=plan, sampling=DRAWN)
    for n in range(3):
        rows = slice(n, n + 1)
        alone = generate(spec, model, windows_of(grid[rows]), kept[rows], sampling=DRAWN, pictures=np.array([n]))
        np.testing.assert_array_equal(found[rows], alone)
    np.testing.assert_array_equal(found[kept != FREE], kept[kept != FREE])


def test_the_report_counts_what_was_computed(model: SmallModel) -> None:
    spec = model_spec(model, "unconditional", 16)
    condition = windows_of(condition_grid(12, 12))
    exact, plain, bounded = WindowReport(), WindowReport(), WindowReport()
    generate(spec, model, condition, all_free(12, 12), report=exact)
    generate(spec, model, condition, all_free(12, 12), report=plain, plan="plain")
    bound = exact.peak_cache_bytes // 3
    generate(spec, model, condition, all_free(12, 12), report=bounded, memory_bytes=bound)
    assert exact.positions_computed < bounded.positions_computed < plain.positions_computed
    assert exact.windows_recomputed == 0
    assert bounded.peak_cache_bytes <= bound


def test_a_larger_shift_is_cheaper_and_another_picture(model: SmallModel) -> None:
    spec = model_spec(model, "unconditional", 16)
    condition = windows_of(condition_grid(12, 12))
    one, two = WindowReport(), WindowReport()
    exact = generate(spec, model, condition, all_free(12, 12), report=one)
    shifted = generate(spec, model, condition, all_free(12, 12), report=two, shift=2)
    assert two.positions_computed < 0.6 * one.positions_computed
    assert not np.array_equal(exact, shifted)
    np.testing.assert_array_equal(shifted, generate(spec, model, condition, all_free(12, 12), plan="plain", shift=2))


def test_what_windows_can_not_do(model: SmallModel, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="an order of its own"):
        WindowGenerator(model_spec(model, "class", 1, permutation=tuple(range(15, -1, -1))), model.engine)
    with pytest.raises(SpecError, match="one-pass"):
        one_pass = make_model(tmp_path, one_pass=True)
        WindowGenerator(model_spec(one_pass, "unconditional", 16), one_pass.engine)
    spec = model_spec(model, "class", 1)
    with pytest.raises(ShapeError, match="at least 4x4"):
        generate(spec, model, lambda i, j: np.array([[1]]), all_free(3, 9))
