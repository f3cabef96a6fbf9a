"""The transformer engine against the reference module, and against itself: batches, order, prefill and steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.runtime.leading_rows import check_leading_rows
from tests.runtime.small_models import SmallModel, make_model, random_tokens
from tests.tolerances import LOGITS_FP32, LOGITS_INT8_SMALL
from trt_vqgan.errors import BundleError
from trt_vqgan.runtime.transformer import TransformerEngine, attention_mask

SIZES = [
    {},
    {"num_heads": 1, "hidden_size": 104},  # head size 104
    {"num_heads": 4, "hidden_size": 64},  # head size 16
    {"num_heads": 3, "hidden_size": 60, "num_layers": 1},  # no multiple of a quantisation block
    {"num_unmasked": 7},
    {"num_unmasked": 150},
    {"vocab_size": 1, "num_layers": 1},
]


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"), precision=request.param)


def all_rows(model: SmallModel, tokens: np.ndarray, block: int = 1) -> np.ndarray:
    cache = model.engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
    return model.engine.prefill(cache, tokens, rows=np.arange(tokens.shape[1]), block=block)


def by_steps(model: SmallModel, tokens: np.ndarray, start: int, block: int = 1) -> np.ndarray:
    """Return the logits of positions start - 1 …, the first ``start`` of them filled at once."""
    batch, length = tokens.shape
    cache = model.engine.new_cache(batch=batch, capacity=length)
    logits = [model.engine.prefill(cache, tokens[:, :start], rows=np.array([start - 1]), block=block)[:, 0]]
    stepper = model.engine.stepper(cache)
    for i in range(start, length):
        logits.append(stepper.step(tokens[:, i], np.full(batch, i)).copy())
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("block", [1, 50, 130])
def test_prefill_matches_the_reference(tmp_path: Path, sizes: dict[str, int], block: int) -> None:
    model = make_model(tmp_path, **sizes)
    tokens = random_tokens(model.spec, 3, 130)
    found = all_rows(model, tokens, block)
    np.testing.assert_allclose(found, model.reference_logits(tokens), atol=LOGITS_FP32, rtol=0)


def test_int8_stays_near_the_reference(tmp_path: Path) -> None:
    model = make_model(tmp_path, precision="int8", hidden_size=128)
    tokens = random_tokens(model.spec, 2, 70)
    found, wanted = all_rows(model, tokens), model.reference_logits(tokens)
    assert np.abs(found - wanted).max() <= LOGITS_INT8_SMALL * np.abs(wanted).max()
    assert not np.allclose(found, wanted, atol=LOGITS_FP32), "int8 that equals fp32 has not been quantised"


@pytest.mark.parametrize("block", [1, 20])
@pytest.mark.parametrize("start", [20, 21, 63, 64, 65, 128])
def test_steps_equal_prefill_to_the_bit(model: SmallModel, start: int, block: int) -> None:
    """Once the same leading block has been computed as one matrix."""
    tokens = random_tokens(model.spec, 2, 140)
    whole = all_rows(model, tokens, block)
    np.testing.assert_array_equal(by_steps(model, tokens, start, block), whole[:, start - 1 :])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize(("heads", "width", "num_unmasked"), [(2, 128, 0), (1, 104, 0), (4, 64, 150), (2, 272, 0)])
def test_cuts_of_a_sequence_do_not_change_a_bit(
    tmp_path: Path, heads: int, width: int, num_unmasked: int, threads: int, precision: str
) -> None:
    """Over several blocks of ONNX Runtime's inner axis, and on more threads than heads; head size 136 goes by rows."""
    sizes = {"num_heads": heads, "hidden_size": width, "num_unmasked": num_unmasked, "num_layers": 2}
    model = make_model(tmp_path, max_seq_len=400, precision=precision, **sizes)
    engine = TransformerEngine(tmp_path / "transformer.onnx", model.spec, threads=threads)
    tokens = random_tokens(model.spec, 2, 400)
    start = max(1, num_unmasked)
    cuts = [start, start + 1, 160, 161, 163, 176, 215, 300, 313, 314, 330, 399, 400]
    whole = engine.new_cache(batch=2, capacity=400)
    wanted = engine.prefill(whole, tokens, rows=np.array(cuts) - 1)
    cache = engine.new_cache(batch=1, capacity=400)
    found = [engine.prefill(cache, tokens[:1, :start], rows=np.array([start - 1]))]
    for first, last in itertools.pairwise(cuts):
        found.append(engine.extend(cache, tokens[:1, :last], start=first, rows=np.array([last - 1])))
    np.testing.assert_array_equal(np.concatenate(found, axis=1)[0], wanted[0])
    for index in range(2 * model.spec.num_layers):
        np.testing.assert_array_equal(cache.view(index)[0, :, :, :400], whole.view(index)[0, :, :, :400])


def test_runs_of_a_long_prefill(model: SmallModel) -> None:
    engine = model.engine  # two heads of 32, two threads
    assert engine.runs(0, 1, batch=1) == [(0, 1)]
    assert engine.runs(7, 8, batch=1) == [(6, 8)], "a run of one position has other bits"
    assert engine.runs(0, 392, batch=1) == [(0, 192), (192, 392)]
    assert engine.runs(100, 230, batch=1) == [(100, 230)]
    assert engine.runs(0, 400, batch=1, num_unmasked=250) == [(0, 250), (250, 400)]


def test_runs_are_widened_on_many_threads(tmp_path: Path) -> None:
    model = make_model(tmp_path, num_heads=1, hidden_size=104, max_seq_len=400)
    engine = TransformerEngine(tmp_path / "transformer.onnx", model.spec, threads=8)
    assert engine.runs(300, 303, batch=1) == [(199, 303)]
    assert engine.runs(300, 303, batch=2) == [(300, 303)]
    assert engine.runs(120, 123, batch=1) == [(120, 123)]


@pytest.mark.parametrize("batch", [2, 8, 64])
def test_rows_do_not_depend_on_the_batch(model: SmallModel, batch: int) -> None:
    tokens = random_tokens(model.spec, batch, 70)
    together = by_steps(model, tokens, 40, 30)
    order = np.random.default_rng(1).permutation(batch)
    np.testing.assert_array_equal(by_steps(model, tokens[order], 40, 30), together[order])
    for row in (0, batch - 1):
        np.testing.assert_array_equal(by_steps(model, tokens[row : row + 1], 40, 30)[0], together[row])


def test_rows_may_stand_at_different_lengths(model: SmallModel) -> None:
    lengths = np.array([1, 40, 64, 100])
    tokens = random_tokens(model.spec, 4, 110)
    cache = model.engine.new_cache(batch=4, capacity=110)
    cache.reserve(110)
    for row, length in enumerate(lengths):
        alone = model.engine.new_cache(batch=1, capacity=110)
        model.engine.prefill(alone, tokens[row : row + 1, :length], rows=np.array([length - 1]), block=1)
        alone.reserve(110)
        for index in range(2 * model.spec.num_layers):
            cache.view(index)[row, :, :, :length] = alone.view(index)[0, :, :, :length]
    found = model.engine.stepper(cache).step(tokens[np.arange(4), lengths], lengths)
    for row, length in enumerate(lengths):
        wanted = all_rows(model, tokens[row : row + 1, : length + 1])[0, -1]
        np.testing.assert_array_equal(found[row], wanted)


def test_steps_of_the_leading_rows(model: SmallModel) -> None:
    check_leading_rows(model.engine)


@pytest.mark.parametrize("block", [1, 30, 50, 80])
def test_cuts_of_a_block_and_what_follows_do_not_change_a_bit(model: SmallModel, block: int) -> None:
    tokens = random_tokens(model.spec, 1, 80)
    wanted = all_rows(model, tokens, block)
    cache = model.engine.new_cache(batch=1, capacity=80)
    model.engine.prefill(cache, tokens[:, :20], rows=np.array([19]), block=block)
    for start, end in ((20, 21), (21, 45), (45, 80)):
        rows = np.arange(start, end)
        found = model.engine.extend(cache, tokens[:, :end], start=start, rows=rows, block=block)
        np.testing.assert_array_equal(found, wanted[:, rows])


@pytest.mark.parametrize("block", [1, 80])
def test_a_large_prefill_is_split_without_a_trace(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    tokens = random_tokens(model.spec, 5, 80)
    whole = all_rows(model, tokens, block)
    whole_cache = model.engine.new_cache(batch=5, capacity=80)
    model.engine.prefill(whole_cache, tokens, rows=np.array([79]), block=block)
    monkeypatch.setattr("trt_vqgan.runtime.transformer.SCORE_BYTES", 2 * model.spec.num_heads * 80 * 128 * 4)
    np.testing.assert_array_equal(all_rows(model, tokens, block), whole)
    split_cache = model.engine.new_cache(batch=5, capacity=80)
    model.engine.prefill(split_cache, tokens, rows=np.array([79]), block=block)
    for index in range(2 * model.spec.num_layers):
        np.testing.assert_array_equal(split_cache.view(index)[..., :80, :], whole_cache.view(index)[..., :80, :])


def test_a_wrong_mask_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: positions that don't see themselves must break parity."""
    model = make_model(tmp_path)
    tokens = random_tokens(model.spec, 1, 20)

    def strict(start: int, length: int, visible: int, num_unmasked: int) -> np.ndarray:
        mask = attention_mask(start, length, visible, num_unmasked).copy()
        mask[np.arange(1, length), np.arange(1, length)] = -np.inf
        return mask

    monkeypatch.setattr("trt_vqgan.runtime.transformer.attention_mask", strict)
    assert not np.allclose(all_rows(model, tokens), model.reference_logits(tokens), atol=LOGITS_FP32, rtol=0)


def test_the_cache_is_written_in_place(model: SmallModel) -> None:
    cache = model.engine.new_cache(batch=1, capacity=64)
    tokens = random_tokens(model.spec, 1, 5)
    model.engine.prefill(cache, tokens, rows=np.array([4]), block=1)
    for index in range(2 * model.spec.num_layers):
        written = np.abs(cache.view(index)).sum(axis=(0, 1, 2, 4))
        assert (written[:5] > 0).all()
        assert (written[5:] == 0).all()


def test_weights_are_external_and_aligned(tmp_path: Path) -> None:
    make_model(tmp_path)
    graph = onnx.load(tmp_path / "transformer.onnx", load_external_data=False).graph
    external = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert sum(int(np.prod(t.dims)) for t in external) > 0.99 * sum(int(np.prod(t.dims)) for t in graph.initializer)
    assert (tmp_path / "transformer.onnx").stat().st_size < 100_000


def test_a_damaged_graph_is_one_clear_error(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    path = tmp_path / "transformer.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"transformer\.onnx.*export the bundle again"):
        TransformerEngine(path, model.spec, threads=1)
