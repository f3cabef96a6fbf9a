"""Codes of every model kind against the published loop, and their independence of what is made beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.plain_sampler import plain_greedy
from tests.runtime.small_models import SmallModel, make_model, small_autoencoder
from trt_vqgan.errors import Cancelled
from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import ConditionSpec, ModelSpec

SIDE = 4
GREEDY = Sampling(greedy=True)
DRAWN = Sampling(temperature=1.1, top_k=20, top_p=0.9)


def model_spec(
    model: SmallModel, *, num_tokens: int, permutation: tuple[int, ...] | None = None, codebook_size: int = 61
) -> ModelSpec:
    autoencoder = small_autoencoder(SIDE, codebook_size)
    condition = ConditionSpec(kind="boxes", num_tokens=num_tokens)
    return ModelSpec(autoencoder=autoencoder, transformer=model.spec, condition=condition, permutation=permutation)


def conditions(length: int, batch: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 61, (batch, length))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"))


def generate(spec: ModelSpec, model: SmallModel, cond: np.ndarray, **options: object) -> np.ndarray:
    settings: dict = {"sampling": GREEDY, "seed": 5, "pictures": np.arange(len(cond))} | options
    return CodeGenerator(spec, model.engine).generate(cond, **settings).reshape(len(cond), -1)


@pytest.mark.parametrize("num_unmasked", [0, 3, 5, 9, 40])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 7, 15, 16])
def test_greedy_codes_are_those_of_the_published_loop(
    tmp_path: Path, num_unmasked: int, permuted: bool, kept: int
) -> None:
    model = make_model(tmp_path, num_unmasked=num_unmasked)
    permutation = tuple(np.random.default_rng(0).permutation(SIDE * SIDE).tolist()) if permuted else None
    spec = model_spec(model, num_tokens=5, permutation=permutation)
    cond = conditions(5, 3)
    leading = np.random.default_rng(1).integers(0, 61, (3, kept))
    order = np.asarray(permutation if permutation is not None else range(16))
    forced = np.full((3, 16), FREE)
    forced[:, order[:kept]] = leading
    found = generate(spec, model, cond, kept=forced)
    for row in range(3):
        np.testing.assert_array_equal(found[row], plain_greedy(spec, model.reference, cond[row], leading[row]))


@pytest.mark.parametrize("kept", [0, 3])
@pytest.mark.parametrize("num_unmasked", [0, 31])
def test_one_pass_models(tmp_path: Path, kept: int, num_unmasked: int) -> None:
    model = make_model(tmp_path, one_pass=True, num_unmasked=num_unmasked)
    spec = model_spec(model, num_tokens=16)
    cond = conditions(16, 2)
    leading = np.random.default_rng(1).integers(0, 61, (2, kept))
    forced = np.full((2, 16), FREE)
    forced[:, :kept] = leading
    found = generate(spec, model, cond, kept=forced)
    for row in range(2):
        np.testing.assert_array_equal(found[row], plain_greedy(spec, model.reference, cond[row], leading[row]))


def test_kept_codes_anywhere_stay_and_condition_what_follows(model: SmallModel) -> None:
    spec = model_spec(model, num_tokens=2)
    cond = conditions(2, 1)
    free = generate(spec, model, cond)
    forced = np.full((1, 16), FREE)
    forced[0, [4, 9]] = (free[0, [4, 9]] + 1) % 61
    found = generate(spec, model, cond, kept=forced)
    np.testing.assert_array_equal(found[0, :4], free[0, :4])
    np.testing.assert_array_equal(found[0, [4, 9]], forced[0, [4, 9]])
    wanted = plain_greedy(spec, model.reference, cond[0], found[0, :5])
    np.testing.assert_array_equal(found[0, :9], wanted[:9])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("batch", [2, 8, 64])
def test_drawn_codes_do_not_depend_on_the_batch(tmp_path: Path, precision: str, batch: int) -> None:
    model = make_model(tmp_path, precision=precision)
    spec = model_spec(model, num_tokens=2)
    cond = conditions(2, batch)
    pictures = np.arange(10, 10 + batch)
    together = generate(spec, model, cond, sampling=DRAWN, pictures=pictures)
    assert len({row.tobytes() for row in together}) > batch // 2, "the rows are no draws of their own"
    order = np.random.default_rng(2).permutation(batch)
    np.testing.assert_array_equal(
        generate(spec, model, cond[order], sampling=DRAWN, pictures=pictures[order]), together[order]
    )
    for row in (0, 1, batch - 1):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(
            generate(spec, model, cond[one], sampling=DRAWN, pictures=pictures[one])[0], together[row]
        )


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_drawn_codes_are_the_same_through_prefill_and_steps(tmp_path: Path, precision: str) -> None:
    """Keeping a picture's own leading codes moves them from steps into the prefill; nothing may change."""
    model = make_model(tmp_path, precision=precision)
    spec = model_spec(model, num_tokens=2)
    cond = conditions(2, 4)
    stepped = generate(spec, model, cond, sampling=DRAWN)
    for kept in (1, 8, 13):
        forced = np.full((4, 16), FREE)
        forced[:, :kept] = stepped[:, :kept]
        np.testing.assert_array_equal(generate(spec, model, cond, sampling=DRAWN, kept=forced), stepped)


@pytest.mark.parametrize("num_unmasked", [0, 21])
@pytest.mark.parametrize("one_pass", [False, True])
def test_what_a_row_keeps_does_not_change_its_neighbours(tmp_path: Path, one_pass: bool, num_unmasked: int) -> None:
    model = make_model(tmp_path, one_pass=one_pass, num_unmasked=num_unmasked)
    spec = model_spec(model, num_tokens=16)
    cond = conditions(16, 4)
    rng = np.random.default_rng(6)
    forced = np.where(np.arange(16) < [[0], [5], [16], [9]], rng.integers(0, 61, (4, 16)), FREE)
    forced[3, [0, 12]] = FREE, 7
    together = generate(spec, model, cond, sampling=DRAWN, kept=forced)
    assert (together[forced != FREE] == forced[forced != FREE]).all()
    for row in range(4):
        one = slice(row, row + 1)
        alone = generate(spec, model, cond[one], sampling=DRAWN, kept=forced[one], pictures=np.array([row]))
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("num_unmasked", [0, 9])
@pytest.mark.parametrize("permuted", [False, True])
def test_guidance_is_its_formula(tmp_path: Path, num_unmasked: int, permuted: bool) -> None:
    model = make_model(tmp_path, num_unmasked=num_unmasked)
    permutation = tuple(np.random.default_rng(0).permutation(16).tolist()) if permuted else None
    spec = model_spec(model, num_tokens=2, permutation=permutation)
    cond, null = conditions(2, 2), np.array([3, 4])
    found = generate(spec, model, cond, guidance=Guidance(scale=2.0, null_condition=null))
    ordered = found[:, np.asarray(permutation)] if permutation is not None else found
    both = np.concatenate([cond, np.stack([null, null])])
    for i in range(16):
        tokens = np.concatenate([both, np.tile(ordered[:, :i], (2, 1))], axis=1)
        given, without = np.split(model.reference_logits(tokens)[:, -1], 2)
        np.testing.assert_array_equal((without + 2 * (given - without)).argmax(axis=1), ordered[:, i])


def test_codes_are_shown_while_they_are_drawn(model: SmallModel) -> None:
    spec = model_spec(model, num_tokens=2)
    seen: list[np.ndarray] = []
    found = generate(spec, model, conditions(2, 2), on_codes=seen.append, codes_every=5)
    assert [(codes != FREE).sum() for codes in seen] == [10, 20, 30]
    for codes in seen:
        drawn = codes.reshape(2, -1) != FREE
        np.testing.assert_array_equal(codes.reshape(2, -1)[drawn], found[drawn])


def test_equal_conditions_share_one_prefill(model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = model_spec(model, num_tokens=5)
    cond = np.repeat(conditions(5, 2), [3, 2], axis=0)
    apart = np.concatenate(
        [generate(spec, model, cond[i : i + 1], sampling=DRAWN, pictures=np.array([i])) for i in range(5)]
    )
    sizes = []
    prefill = model.engine.prefill

    def counted(cache: object, tokens: np.ndarray, **options: object) -> np.ndarray:
        sizes.append(len(tokens))
        return prefill(cache, tokens, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model.engine, "prefill", counted)
    np.testing.assert_array_equal(generate(spec, model, cond, sampling=DRAWN), apart)
    assert sizes == [2]


def test_a_vocabulary_larger_than_the_codebook_draws_only_codes(model: SmallModel) -> None:
    spec = model_spec(model, num_tokens=2, codebook_size=7)
    found = generate(spec, model, conditions(2, 8), sampling=Sampling(temperature=50.0))
    assert found.max() == 6


def test_seed_and_picture_number_choose_the_draws(model: SmallModel) -> None:
    spec = model_spec(model, num_tokens=2)
    cond = np.repeat(conditions(2, 1), 3, axis=0)
    codes = generate(spec, model, cond, sampling=DRAWN)
    assert not np.array_equal(codes[0], codes[1])
    assert not np.array_equal(generate(spec, model, cond, sampling=DRAWN, seed=6), codes)
    np.testing.assert_array_equal(generate(spec, model, cond, sampling=DRAWN), codes)


def test_steps_are_reported_and_may_stop_the_work(model: SmallModel) -> None:
    spec = model_spec(model, num_tokens=2)
    seen: list[int] = []

    def stop_at_five(done: int) -> None:
        seen.append(done)
        if done == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        generate(spec, model, conditions(2, 1), on_step=stop_at_five)
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("permuted", [False, True])
def test_teacher_forced_logits_follow_the_models_order(model: SmallModel, permuted: bool) -> None:
    permutation = tuple(np.random.default_rng(0).permutation(16).tolist()) if permuted else None
    spec = model_spec(model, num_tokens=3, permutation=permutation)
    cond = conditions(3, 2)
    codes = np.random.default_rng(4).integers(0, 61, (2, 16))
    ordered = codes[:, np.asarray(permutation)] if permutation is not None else codes
    tokens = np.concatenate([cond, ordered], axis=1)[:, :-1]
    found = CodeGenerator(spec, model.engine).logits(cond, codes)
    np.testing.assert_allclose(found, model.reference_logits(tokens)[:, 2:], atol=1e-4)
