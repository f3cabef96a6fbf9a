"""The driver on the CPU: prefill, extension and steps against the reference, the decode loop against the host's."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.small_engines import DeviceModel, make_device_model
from tests.runtime.small_models import random_tokens
from tests.tolerances import LOGITS_FP32
from trt_vqgan.errors import CudaError, ShapeError
from trt_vqgan.kernels.reference.decode_state import FREE
from trt_vqgan.runtime.gpu import decode_loop, decode_plan, forward_pass
from trt_vqgan.runtime.gpu.decode_plan import bucket_size
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling, draw_codes

COUNT = 12
DRAWN = Sampling(temperature=1.1, top_k=20, top_p=0.9)
GREEDY = Sampling(greedy=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DeviceModel:
    return make_device_model(tmp_path_factory.mktemp("model"))


def code_positions() -> np.ndarray:
    return np.array([grid_position(i // 4, i % 4) for i in range(COUNT)])


def drawing(prefixes: list[np.ndarray], **options: Any) -> Drawing:
    batch = len(prefixes) if options.get("guidance_scale") is None else len(prefixes) // 2
    settings: dict[str, Any] = {
        "codes": np.full((batch, COUNT), FREE),
        "starts": np.zeros(batch, dtype=np.int64),
        "ends": np.full(batch, COUNT),
        "code_positions": code_positions(),
        "sampling": (DRAWN,) * batch,
        "seeds": (5,) * batch,
        "pictures": np.arange(batch),
        "guidance_scale": None,
        "codebook_size": 50,
    }
    return Drawing(prefixes=tuple(prefixes), **(settings | options))


def drawn_alone(model: DeviceModel, wanted: Drawing, row: int) -> np.ndarray:
    """Draw one picture of a drawing from whole sequences through the reference model."""
    codes = wanted.codes[row].copy()
    rows = [row] if not wanted.guided else [row, row + wanted.batch]
    tokens = [list(wanted.prefixes[r]) for r in rows]
    for column in range(int(wanted.starts[row]), int(wanted.ends[row])):
        logits = model.reference_logits(np.array(tokens))[:, -1, : wanted.codebook_size]
        if wanted.guidance_scale is not None:
            logits = logits[1:] + np.float32(wanted.guidance_scale) * (logits[:1] - logits[1:])
        random = random64(wanted.seeds[row], pictures=wanted.pictures[[row]], positions=wanted.code_positions[[column]])
        if codes[column] == FREE:
            codes[column] = draw_codes(logits, wanted.sampling[row], random=random)[0]
        for sequence in tokens:
            sequence.append(codes[column])
    return codes


# --- the transformer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_unmasked", [0, 3, 40])
@pytest.mark.parametrize("rows", [[0], [9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5, 9], []])
def test_prefill_gives_the_references_logits(tmp_path: Path, num_unmasked: int, rows: list[int]) -> None:
    model = make_device_model(tmp_path, num_unmasked=num_unmasked)
    tokens = random_tokens(model.spec, 3, 10)
    cache = model.engine.new_cache(batch=3, capacity=10)
    found = model.engine.prefill(cache, tokens, rows=np.array(rows, dtype=np.int64))
    np.testing.assert_allclose(found, model.reference_logits(tokens)[:, rows], atol=LOGITS_FP32)


def test_a_prefill_in_parts_is_the_same(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(model.spec, 5, 9)
    wanted_cache, cache = (model.engine.new_cache(batch=5, capacity=20) for _ in range(2))
    wanted = model.engine.prefill(wanted_cache, tokens, rows=np.array([3, 8]))
    monkeypatch.setattr(forward_pass, "PREFILL_BYTES", 40_000)
    np.testing.assert_allclose(model.engine.prefill(cache, tokens, rows=np.array([3, 8])), wanted, atol=1e-5)
    more = np.concatenate([tokens, tokens[:, :1]], axis=1)
    found = model.engine.extend(cache, more, start=9, rows=np.array([9]))
    np.testing.assert_allclose(found[:, 0], model.reference_logits(more)[:, 9], atol=LOGITS_FP32)


def test_extension_and_steps_go_on_from_a_cache(model: DeviceModel) -> None:
    tokens = random_tokens(model.spec, 4, 20)
    wanted = model.reference_logits(tokens)
    cache = model.engine.new_cache(batch=4, capacity=20)
    model.engine.prefill(cache, tokens[:, :7], rows=np.array([6]))
    found = model.engine.extend(cache, tokens[:, :15], start=7, rows=np.array([7, 10, 14]))
    np.testing.assert_allclose(found, wanted[:, [7, 10, 14]], atol=LOGITS_FP32)
    stepper = model.engine.stepper(cache)
    lengths = np.array([15, 9, 12, 15])  # rows may go back: what is beyond is never read
    found = stepper.step(tokens[np.arange(4), lengths], lengths)
    np.testing.assert_allclose(found, wanted[np.arange(4), lengths], atol=LOGITS_FP32)
    leading = stepper.step(tokens[[0, 1], lengths[:2]], lengths[:2])
    np.testing.assert_allclose(leading, wanted[[0, 1], lengths[:2]], atol=LOGITS_FP32)


def test_rows_of_another_cache_are_copied(model: DeviceModel) -> None:
    tokens = random_tokens(model.spec, 3, 8)
    small, cache = model.engine.new_cache(batch=3, capacity=8), model.engine.new_cache(batch=4, capacity=100)
    model.engine.prefill(small, tokens, rows=np.array([7]))
    which = np.array([2, 0, 0, 1])
    cache.copy_rows(small, which, 8)
    found = model.engine.stepper(cache).step(tokens[which, 0], np.full(4, 8))
    wanted = model.reference_logits(np.concatenate([tokens, tokens[:, :1]], axis=1))[which, -1]
    np.testing.assert_allclose(found, wanted, atol=LOGITS_FP32)
    with pytest.raises(ShapeError, match="wanted at most 64"):
        cache.copy_rows(small, which, 65)


@pytest.mark.parametrize(("batch", "capacity"), [(1, 1), (3, 64), (2, 65)])
@pytest.mark.parametrize("number", [np.float16, np.float32])
def test_the_bytes_of_a_cache_are_those_that_it_holds(
    model: DeviceModel, monkeypatch: pytest.MonkeyPatch, number: type, batch: int, capacity: int
) -> None:
    """float16 on a GPU: half of what the CPU's engines keep."""
    monkeypatch.setattr(model.engine, "number", np.dtype(number))
    cache = model.engine.new_cache(batch=batch, capacity=capacity)
    assert model.engine.cache_bytes(batch=batch, capacity=capacity) == cache._values.memory.nbytes


def test_more_positions_than_there_are_is_refused(model: DeviceModel) -> None:
    cache = model.engine.new_cache(batch=1, capacity=64)
    with pytest.raises(ShapeError, match="found 65 positions, wanted at most 200, and 64 in this cache"):
        model.engine.prefill(cache, random_tokens(model.spec, 1, 65), rows=np.array([0]))


# --- the decode loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
@pytest.mark.parametrize("guidance_scale", [None, 1.7])
def test_rows_of_different_lengths(model: DeviceModel, sampling: Sampling, guidance_scale: float | None) -> None:
    """Prefixes of 1 to 9 tokens, other first and last codes, other seeds and settings in every row."""
    rng = np.random.default_rng(0)
    lengths = [3, 9, 1, 3, 5]
    prefixes = [rng.integers(0, 61, length) for length in lengths]
    if guidance_scale is not None:
        prefixes += [np.concatenate([[7], prefix[1:]]) for prefix in prefixes]
    wanted = drawing(
        prefixes,
        guidance_scale=guidance_scale,
        starts=np.array([0, 4, 11, 2, 0]),
        ends=np.array([12, 12, 12, 7, 1]),
        sampling=(sampling, GREEDY, sampling, Sampling(top_k=3), sampling),
        seeds=(5, 2**64 - 1, 0, 9, 5),
        pictures=np.array([4, 0, 2**32 - 1, 6, 3]),
    )
    found = model.engine.draw(wanted)
    for row in range(5):
        np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))


def test_forced_codes_are_taken_and_seen(model: DeviceModel) -> None:
    prefixes = [np.array([1, 2]), np.array([3, 4])]
    codes = np.full((2, COUNT), FREE)
    codes[0, [0, 5, 6]], codes[1, [3, 11]] = [7, 49, 0], [8, 9]
    wanted = drawing(prefixes, codes=codes)
    found = model.engine.draw(wanted)
    assert (found[codes != FREE] == codes[codes != FREE]).all()
    for row in range(2):
        np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))


def test_equal_prefixes_are_computed_once(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = [np.array([1, 2, 3]), np.array([4, 5, 6]), np.array([1, 2, 3])]
    wanted = drawing(prefixes)
    computed = []
    forward = model.engine._forward.run

    def counted(cache: Any, tokens: np.ndarray, **options: Any) -> Any:
        computed.append(tokens.shape)
        return forward(cache, tokens, **options)

    monkeypatch.setattr(model.engine._forward, "run", counted)
    found = model.engine.draw(wanted)
    assert computed == [(2, 3)]
    for row in range(3):
        np.testing.assert_array_equal(found[row], drawn_alone(model, wanted, row))


def test_the_graph_is_kept_and_replayed(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same drawing, then another of the same size: three equal states, one capture."""
    captured = []
    capture = model.engine.device.capture
    monkeypatch.setattr(model.engine.device, "capture", lambda issue: captured.append(1) or capture(issue))
    model.engine._plans.clear()
    first = drawing([np.array([1, 2, 3])])
    other = drawing([np.array([9])], seeds=(77,))
    for wanted in (first, first, other, first):
        np.testing.assert_array_equal(model.engine.draw(wanted)[0], drawn_alone(model, wanted, 0))
    assert len(captured) == 1


def test_only_some_plans_are_kept(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_plan, "KEPT_PLANS", 2)
    model.engine._plans.clear()
    for batch in (1, 2, 4):
        model.engine.draw(drawing([np.array([1])] * batch))
    assert [size.pictures for size in model.engine._plans._plans] == [2, 4]


def test_short_memory_frees_what_is_kept(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.engine._plans.clear()
    model.engine.draw(drawing([np.array([1])]))
    allocate = model.engine.device.allocate

    def allocate_little(shape: tuple[int, ...], dtype: Any) -> Any:
        if model.engine._plans._plans:
            raise CudaError("out of GPU memory")
        return allocate(shape, dtype)

    monkeypatch.setattr(model.engine.device, "allocate", allocate_little)
    wanted = drawing([np.array([1]), np.array([2])])
    np.testing.assert_array_equal(model.engine.draw(wanted)[1], drawn_alone(model, wanted, 1))
    monkeypatch.setattr(model.engine.device, "allocate", lambda shape, dtype: (_ for _ in ()).throw(CudaError("none")))
    with pytest.raises(CudaError, match="none"):
        model.engine.draw(drawing([np.array([1])] * 3))


def test_progress_and_codes_come_in_order(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_loop, "STEPS_AHEAD", 5)
    seen: list[Any] = []
    found = model.engine.draw(
        drawing([np.array([1, 2])]),
        on_steps=lambda steps: seen.append(steps),
        on_codes=lambda steps, codes: seen.append((steps, codes)),
        show_after=(3, 7),
    )
    assert [item if isinstance(item, int) else item[0] for item in seen] == [3, 3, 5, 7, 7, 10, 12]
    for item in seen:
        if not isinstance(item, int):
            steps, codes = item
            np.testing.assert_array_equal(codes[0, :steps], found[0, :steps])
            assert (codes[0, steps:] == FREE).all(), "the device is ahead of what is shown"


def test_a_callback_may_stop_and_may_draw_itself(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_loop, "STEPS_AHEAD", 4)
    wanted = drawing([np.array([1, 2])])
    whole = model.engine.draw(wanted)

    def stop(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.engine.draw(wanted, on_steps=stop)
    inside: list[np.ndarray] = []
    np.testing.assert_array_equal(
        model.engine.draw(wanted, on_steps=lambda steps: inside.append(model.engine.draw(wanted))), whole
    )
    for codes in inside:
        np.testing.assert_array_equal(codes, whole)


def test_logits_that_are_not_finite_are_told(tmp_path: Path) -> None:
    model = make_device_model(tmp_path)
    operations = model.engine._operations
    operations._tokens[3] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(ShapeError, match="picture 1 of the batch, code 0: found NaN"):
        model.engine.draw(drawing([np.array([1]), np.array([3])]))


def test_a_prefix_that_new_codes_would_change_is_refused(tmp_path: Path) -> None:
    model = make_device_model(tmp_path, num_unmasked=5)
    with pytest.raises(ShapeError, match="found a prefix of 4 tokens, wanted at least the 5"):
        model.engine.draw(drawing([np.array([1, 2, 3, 4])]))
    one = drawing([np.array([1, 2, 3, 4])], ends=np.array([1]))
    np.testing.assert_array_equal(model.engine.draw(one)[0], drawn_alone(model, one, 0))


def test_a_drawing_checks_itself(model: DeviceModel) -> None:
    good = drawing([np.array([1]), np.array([2])])
    for change, line in (
        ({"guidance_scale": 2.0}, "for 2 pictures, 4 rows"),
        ({"ends": np.array([12, 13])}, "wanted them within 12"),
        ({"prefixes": (np.array([1]), np.array([], dtype=np.int64))}, "without tokens"),
    ):
        with pytest.raises(ShapeError, match=line):
            dataclasses.replace(good, **change)
    nothing = dataclasses.replace(good, ends=np.zeros(2, dtype=np.int64))
    assert (model.engine.draw(nothing) == FREE).all()


def test_buckets() -> None:
    assert [bucket_size(n) for n in (1, 2, 3, 5, 9, 17, 33, 64, 65, 129)] == [1, 2, 4, 8, 16, 32, 64, 64, 128, 192]


# --- planted faults ---------------------------------------------------------------------------------------------------


def test_lengths_advanced_twice_are_noticed(model: DeviceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = model.engine._operations
    sample = operations.sample_codes

    def twice(logits: Any, state: Any, x: Any) -> None:
        sample(logits, state, x)
        model.engine.device.view(state.lengths)[:] += 1  # type: ignore[attr-defined]

    monkeypatch.setattr(operations, "sample_codes", twice)
    wanted = drawing([np.array([1, 2]), np.array([3, 4])])
    found = None
    with contextlib.suppress(ShapeError):  # skipped positions of the cache hold anything, NaN too
        found = model.engine.draw(wanted)
    monkeypatch.undo()
    assert not np.array_equal(found, np.stack([drawn_alone(model, wanted, row) for row in range(2)]))


def test_a_freed_buffer_is_noticed(model: DeviceModel) -> None:
    wanted = drawing([np.array([1, 2])])
    model.engine.draw(wanted)
    (plan,) = (plan for size, plan in model.engine._plans._plans.items() if size.pictures == 1)
    plan.logits.memory.free()
    with pytest.raises(CudaError, match="memory was freed"):
        model.engine.draw(wanted)
    np.testing.assert_array_equal(model.engine.draw(wanted)[0], drawn_alone(model, wanted, 0))
