"""The loop on a device against the host's over the same engine, and the published one, for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.small_engines import DeviceModel, make_device_model
from tests.runtime.plain_sampler import plain_greedy
from tests.runtime.small_models import small_autoencoder
from trt_vqgan.errors import Cancelled
from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.gpu import decode_loop
from trt_vqgan.runtime.gpu.code_generator import DeviceCodeGenerator
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import ConditionSpec, ModelSpec

SIDE = 4
GREEDY = Sampling(greedy=True)
DRAWN = Sampling(temperature=1.1, top_k=20, top_p=0.9)


def model_spec(model: DeviceModel, *, num_tokens: int, permuted: bool = False, codebook_size: int = 61) -> ModelSpec:
    permutation = tuple(np.random.default_rng(0).permutation(SIDE * SIDE).tolist()) if permuted else None
    condition = ConditionSpec(kind="boxes", num_tokens=num_tokens)
    autoencoder = small_autoencoder(SIDE, codebook_size)
    return ModelSpec(autoencoder=autoencoder, transformer=model.spec, condition=condition, permutation=permutation)


def conditions(length: int, batch: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 61, (batch, length))


def both(spec: ModelSpec, model: DeviceModel, cond: np.ndarray, **options: Any) -> np.ndarray:
    """Return the codes of the device's loop, once they are those of the host's loop."""
    settings: dict[str, Any] = {"sampling": DRAWN, "seed": 5, "pictures": np.arange(len(cond))} | options
    host = CodeGenerator(spec, model.engine).generate(cond, **settings)
    device = DeviceCodeGenerator(spec, model.engine).generate(cond, **settings)
    np.testing.assert_array_equal(device, host)
    return device.reshape(len(cond), -1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DeviceModel:
    return make_device_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("num_unmasked", [0, 5, 9, 40])
@pytest.mark.parametrize("permuted", [False, True])
def test_greedy_codes_are_those_of_the_published_loop(tmp_path: Path, num_unmasked: int, permuted: bool) -> None:
    model = make_device_model(tmp_path, num_unmasked=num_unmasked)
    spec = model_spec(model, num_tokens=5, permuted=permuted)
    cond = conditions(5, 2)
    order = np.asarray(spec.permutation if spec.permutation is not None else range(16))
    for kept in (0, 7, 15, 16):
        leading = np.random.default_rng(1).integers(0, 61, (2, kept))
        forced = np.full((2, 16), FREE)
        forced[:, order[:kept]] = leading
        found = both(spec, model, cond, kept=forced, sampling=GREEDY)
        for row in range(2):
            np.testing.assert_array_equal(found[row], plain_greedy(spec, model.reference, cond[row], leading[row]))


def test_one_pass_models(tmp_path: Path) -> None:
    model = make_device_model(tmp_path, one_pass=True)
    spec = model_spec(model, num_tokens=16)
    cond = conditions(16, 2)
    found = both(spec, model, cond, sampling=GREEDY)
    for row in range(2):
        np.testing.assert_array_equal(found[row], plain_greedy(spec, model.reference, cond[row], np.array([], int)))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_drawn_codes_with_kept_ones_anywhere(model: DeviceModel, guided: bool, permuted: bool, batch: int) -> None:
    spec = model_spec(model, num_tokens=2, permuted=permuted, codebook_size=40)
    rng = np.random.default_rng(6)
    forced = np.where(rng.random((batch, 16)) < 0.4, rng.integers(0, 40, (batch, 16)), FREE)
    guidance = Guidance(scale=2.0, null_condition=np.array([3, 4])) if guided else None
    found = both(spec, model, conditions(2, batch), kept=forced, guidance=guidance)
    assert (found[forced != FREE] == forced[forced != FREE]).all()
    assert found.max() < 40


def test_equal_conditions_and_picture_numbers(model: DeviceModel) -> None:
    spec = model_spec(model, num_tokens=3)
    cond = np.repeat(conditions(3, 2), [3, 2], axis=0)
    found = both(spec, model, cond, pictures=np.array([4, 5, 6, 4, 2**32 - 1]), seed=2**64 - 1)
    assert len({row.tobytes() for row in found}) == 5


def test_previews_are_those_of_the_host_loop(model: DeviceModel) -> None:
    spec = model_spec(model, num_tokens=2, permuted=True)
    forced = np.full((2, 16), FREE)
    forced[:, np.asarray(spec.permutation)[[0, 1, 15]]] = 7  # the prefix, and the last one
    shown: list[list[np.ndarray]] = []
    for generator in (CodeGenerator(spec, model.engine), DeviceCodeGenerator(spec, model.engine)):
        seen: list[np.ndarray] = []
        generator.generate(
            conditions(2, 2),
            sampling=DRAWN,
            seed=5,
            pictures=np.arange(2),
            kept=forced,
            on_codes=seen.append,
            codes_every=5,
        )
        shown.append(seen)
    host, device = shown
    assert len(host) == len(device) == 3
    for one, other in zip(host, device, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_are_reported_in_groups_and_may_stop_the_work(
    model: DeviceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_loop, "STEPS_AHEAD", 6)
    generator = DeviceCodeGenerator(model_spec(model, num_tokens=2), model.engine)
    settings: dict[str, Any] = {"sampling": DRAWN, "seed": 5, "pictures": np.arange(1)}
    seen: list[int] = []
    whole = generator.generate(conditions(2, 1), on_step=seen.append, **settings)
    assert seen == [6, 12, 16]

    def stop(done: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        generator.generate(conditions(2, 1), on_step=stop, **settings)
    np.testing.assert_array_equal(generator.generate(conditions(2, 1), **settings), whole)
