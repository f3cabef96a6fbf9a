"""The CPU kernels' transformer: against the reference module, and against itself in every way of running it."""

from __future__ import annotations

import dataclasses
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.leading_rows import check_leading_rows
from tests.runtime.small_models import SmallModel, make_model, random_tokens
from tests.tolerances import INT8_ENGINES, LOGITS_FP32, LOGITS_HALF_CACHE, LOGITS_INT8_SMALL
from trt_vqgan.errors import BackendUnavailableError, BundleError, ShapeError
from trt_vqgan.runtime.native.build import find_compiler, find_library
from trt_vqgan.runtime.native.cache import NativeCache, Number
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.spec import TransformerSpec

if find_compiler() is None and find_library() is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)

ON_ARM = platform.machine() in ("aarch64", "arm64")
INSTRUCTIONS = ("neondot", "neon", "plain") if ON_ARM else ("amx", "avx512", "avx2", "plain")
SIZES = [
    {},
    {"num_heads": 1, "hidden_size": 104},  # head size 104
    {"num_heads": 4, "hidden_size": 64},  # head size 16
    {"num_heads": 3, "hidden_size": 60, "num_layers": 1},  # no multiple of 16, of a panel or of a quantisation block
    {"num_heads": 2, "hidden_size": 320, "num_layers": 1},  # more than one depth of a product of many rows
    {"num_unmasked": 7},
    {"num_unmasked": 150},
    {"vocab_size": 1, "num_layers": 1},
]


def open_native(folder: Path, model: SmallModel, *, instructions: str = "", threads: int = 2) -> NativeEngine:
    try:
        path = folder / "transformer.onnx"
        return NativeEngine(path, model.spec, threads=threads, instructions=instructions)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(precision)


@pytest.fixture(scope="module")
def model(precision: str, folder: Path) -> SmallModel:
    return make_model(folder, precision=precision)


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def engine(request: pytest.FixtureRequest, folder: Path, model: SmallModel) -> NativeEngine:
    return open_native(folder, model, instructions=request.param)


def all_rows(engine: NativeEngine, tokens: np.ndarray, **options: int) -> np.ndarray:
    cache = engine.new_cache(batch=len(tokens), capacity=tokens.shape[1])
    return engine.prefill(cache, tokens, rows=np.arange(tokens.shape[1]), **options)


def by_steps(engine: NativeEngine, tokens: np.ndarray, start: int) -> np.ndarray:
    """Return the logits of positions start - 1 …, the first ``start`` of them filled at once."""
    batch, length = tokens.shape
    cache = engine.new_cache(batch=batch, capacity=length)
    logits = [engine.prefill(cache, tokens[:, :start], rows=np.array([start - 1]))[:, 0]]
    stepper = engine.stepper(cache)
    for i in range(start, length):
        logits.append(stepper.step(tokens[:, i], np.full(batch, i)).copy())
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_logits_match_the_reference(tmp_path: Path, sizes: dict[str, int], instructions: str) -> None:
    model = make_model(tmp_path, **sizes)
    tokens = random_tokens(model.spec, 3, 130)
    found = all_rows(open_native(tmp_path, model, instructions=instructions), tokens)
    np.testing.assert_allclose(found, model.reference_logits(tokens), atol=LOGITS_FP32, rtol=0)


def test_a_wrong_weight_is_noticed(tmp_path: Path) -> None:
    """A planted fault: one number of one matrix."""
    model = make_model(tmp_path)
    tokens = random_tokens(model.spec, 1, 20)
    data = np.memmap(tmp_path / "transformer.onnx.data", dtype=np.float32, mode="r+")
    weight = model.reference.state_dict()["blocks.0.mlp.0.weight"].numpy().T.reshape(-1)
    places = np.flatnonzero(data == weight[1000])
    assert len(places) == 1
    data[places[0]] += 1
    data.flush()
    assert not np.allclose(
        all_rows(open_native(tmp_path, model), tokens), model.reference_logits(tokens), atol=LOGITS_FP32, rtol=0
    )


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("sizes", [{"hidden_size": 128}, {"num_heads": 3, "hidden_size": 60}], ids=str)
def test_int8_is_as_near_as_through_onnx_runtime(tmp_path: Path, sizes: dict[str, int], instructions: str) -> None:
    model = make_model(tmp_path, precision="int8", **sizes)
    tokens = random_tokens(model.spec, 2, 70)
    found = all_rows(open_native(tmp_path, model, instructions=instructions), tokens)
    cache = model.engine.new_cache(batch=2, capacity=70)
    through_onnx = model.engine.prefill(cache, tokens, rows=np.arange(70))
    scale = np.abs(through_onnx).max()
    assert np.abs(found - model.reference_logits(tokens)).max() <= LOGITS_INT8_SMALL * scale
    assert np.abs(found - through_onnx).max() <= INT8_ENGINES * scale
    assert not np.allclose(found, model.reference_logits(tokens), atol=LOGITS_FP32)


@pytest.mark.parametrize("start", [1, 20, 63, 64, 65, 128])
def test_steps_equal_prefill_to_the_bit(engine: NativeEngine, start: int) -> None:
    tokens = random_tokens(engine.spec, 2, 140)
    np.testing.assert_array_equal(by_steps(engine, tokens, start), all_rows(engine, tokens)[:, start - 1 :])


@pytest.mark.parametrize("batch", [2, 5, 8, 13, 64])
def test_rows_do_not_depend_on_the_batch(engine: NativeEngine, batch: int) -> None:
    tokens = random_tokens(engine.spec, batch, 46)
    together = by_steps(engine, tokens, 40)
    order = np.random.default_rng(1).permutation(batch)
    np.testing.assert_array_equal(by_steps(engine, tokens[order], 40), together[order])
    for row in (0, batch - 1):
        np.testing.assert_array_equal(by_steps(engine, tokens[row : row + 1], 40)[0], together[row])


def test_a_prefill_in_groups_has_the_same_bits(engine: NativeEngine) -> None:
    """Of more rows than go through the layers together (768)."""
    tokens = random_tokens(engine.spec, 7, 190)
    whole = all_rows(engine, tokens)
    for row in (0, 3, 6):
        np.testing.assert_array_equal(all_rows(engine, tokens[row : row + 1])[0], whole[row])


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_do_not_change_a_bit(tmp_path: Path, precision: str, threads: int) -> None:
    model = make_model(tmp_path, precision=precision, hidden_size=256, num_layers=1)  # large enough for several
    tokens = random_tokens(model.spec, 3, 24)
    wanted = all_rows(open_native(tmp_path, model), tokens)
    engine = open_native(tmp_path, model, threads=threads)
    np.testing.assert_array_equal(all_rows(engine, tokens), wanted)
    np.testing.assert_array_equal(by_steps(engine, tokens, 16), wanted[:, 15:])


def test_small_and_large_runs_alternate(folder: Path, model: SmallModel) -> None:
    """One thread is enough for the first, and the others must not be confused by it."""
    engine = open_native(folder, model, threads=4)
    tokens = random_tokens(model.spec, 16, 60)
    wanted = all_rows(engine, tokens)
    for _ in range(40):
        np.testing.assert_array_equal(all_rows(engine, tokens[:1, :5])[0], wanted[0, :5])
        np.testing.assert_array_equal(all_rows(engine, tokens), wanted)


@pytest.mark.parametrize("name", INSTRUCTIONS[:-2])
def test_wide_registers_do_not_change_a_bit(folder: Path, model: SmallModel, name: str) -> None:
    tokens = random_tokens(model.spec, 3, 70)
    found = [all_rows(open_native(folder, model, instructions=each), tokens) for each in (INSTRUCTIONS[-2], name)]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.fixture(
    scope="module",
    params=[
        (precision, sizes)
        for precision in ("int8", "int4")
        for sizes in (
            {"num_heads": 3, "hidden_size": 60},  # blocks, panels and registers that are filled in part
            {"num_heads": 4, "hidden_size": 256, "vocab_size": 33},  # more inputs than are unpacked together
        )
    ],
    ids=str,
)
def tiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TiledModel:
    precision, sizes = request.param
    folder = tmp_path_factory.mktemp("tiled")
    model = make_model(folder, precision=precision, num_layers=1, **sizes)
    return TiledModel(folder, model, *(open_native(folder, model, instructions=name) for name in ("avx512", "amx")))


@dataclasses.dataclass(frozen=True)
class TiledModel:
    folder: Path
    model: SmallModel
    without: NativeEngine
    tiles: NativeEngine


@pytest.mark.parametrize("rows", [7, 8, 11, 12, 13, 16, 17, 31, 33, 47, 100])
def test_tiles_do_not_change_a_bit(tiled: TiledModel, rows: int) -> None:
    tokens = random_tokens(tiled.model.spec, 1, rows)
    np.testing.assert_array_equal(all_rows(tiled.tiles, tokens), all_rows(tiled.without, tokens))


def test_a_wrong_code_is_noticed_through_tiles(tiled: TiledModel, tmp_path: Path) -> None:
    """A planted fault: one bit of the last code of a block."""
    name, spec = "blocks.0.mlp.2", tiled.model.spec
    for file in tiled.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = GraphWeights(tmp_path / "transformer.onnx")
    shape = weights.shape(f"{name}.codes")
    codes = np.array(weights.array(f"{name}.codes", shape, np.uint8))
    data = np.memmap(tmp_path / "transformer.onnx.data", dtype=np.uint8, mode="r+")
    start = bytes(data).index(codes.tobytes())
    data[start + shape[2] - 1] ^= 16
    data.flush()
    tokens = random_tokens(spec, 1, 40)
    damaged = all_rows(open_native(tmp_path, tiled.model, instructions="amx"), tokens)
    assert not np.array_equal(damaged, all_rows(tiled.without, tokens))


def test_the_library_says_that_it_uses_tiles(tiled: TiledModel) -> None:
    assert tiled.tiles.instructions == "AVX-512 VNNI, AMX"
    assert tiled.without.instructions == "AVX-512 VNNI"


@pytest.mark.parametrize("num_unmasked", [0, 30])
def test_cuts_of_a_sequence_do_not_change_a_bit(tmp_path: Path, precision: str, num_unmasked: int) -> None:
    model = make_model(tmp_path, precision=precision, num_unmasked=num_unmasked)
    engine = open_native(tmp_path, model)
    tokens = random_tokens(model.spec, 2, 150)
    wanted = all_rows(engine, tokens)
    cache = engine.new_cache(batch=2, capacity=150)
    engine.prefill(cache, tokens[:, :31], rows=np.array([], dtype=np.int64))
    for start, end in ((31, 32), (32, 37), (37, 64), (64, 101), (101, 150)):
        assert engine.runs(start, end, batch=2) == [(start, end)]
        rows = np.arange(start, end)
        found = engine.extend(cache, tokens[:, :end], start=start, rows=rows)
        np.testing.assert_array_equal(found, wanted[:, rows])


def test_rows_may_stand_at_different_lengths(engine: NativeEngine) -> None:
    lengths = np.array([1, 40, 64, 100])
    tokens = random_tokens(engine.spec, 4, 110)
    cache = engine.new_cache(batch=4, capacity=110)
    for row, length in enumerate(lengths):
        alone = engine.new_cache(batch=1, capacity=110)
        engine.prefill(alone, tokens[row : row + 1, :length], rows=np.array([length - 1]))
        cache.keys[:, row], cache.values[:, row] = alone.keys[:, 0], alone.values[:, 0]
    found = engine.stepper(cache).step(tokens[np.arange(4), lengths], lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(found[row], all_rows(engine, tokens[row : row + 1, : length + 1])[0, -1])


def test_rows_of_a_cache_are_copied(engine: NativeEngine) -> None:
    tokens = random_tokens(engine.spec, 2, 40)
    shared = engine.new_cache(batch=2, capacity=37)
    engine.prefill(shared, tokens[:, :37], rows=np.array([36]))
    cache = engine.new_cache(batch=3, capacity=40)
    rows = np.array([1, 0, 1])
    cache.copy_rows(shared, rows, 37)
    found = engine.extend(cache, tokens[rows], start=37, rows=np.array([39]))
    np.testing.assert_array_equal(found[:, 0], all_rows(engine, tokens)[rows, -1])


def test_caches_are_in_halves_where_weights_are_rounded_too(engine: NativeEngine, precision: str) -> None:
    """The first layer's numbers depend on no cache; the last's do."""
    tokens = random_tokens(engine.spec, 2, 40)
    own = engine.new_cache(batch=2, capacity=40)
    floats = NativeCache(engine.spec, batch=2, capacity=40, number=np.float32)
    assert own.keys.dtype == own.values.dtype == (np.float32 if precision == "fp32" else np.float16)
    own_logits, logits = (engine.prefill(cache, tokens, rows=np.arange(40)) for cache in (own, floats))
    np.testing.assert_array_equal(own.keys[0], floats.keys[0].astype(own.keys.dtype))
    np.testing.assert_array_equal(own.values[0], floats.values[0].astype(own.keys.dtype))
    assert np.array_equal(own_logits, logits) == (precision == "fp32")
    assert engine.describe().endswith("float16") == (precision != "fp32")
    np.testing.assert_allclose(own_logits, logits, atol=LOGITS_HALF_CACHE * float(np.abs(logits).max()), rtol=0)


@pytest.mark.parametrize(("batch", "capacity"), [(1, 0), (3, 64), (2, 65)])
@pytest.mark.parametrize("width", [64, 104])
@pytest.mark.parametrize("number", [np.float32, np.float16])
def test_the_bytes_of_a_cache_are_those_that_it_holds(batch: int, capacity: int, width: int, number: Number) -> None:
    """Values of a head size of 52 are padded to 64."""
    spec = TransformerSpec(vocab_size=61, max_seq_len=200, num_layers=3, num_heads=2, hidden_size=width)
    cache = NativeCache(spec, batch=batch, capacity=capacity, number=number)
    wanted = cache.keys.nbytes + cache.values.nbytes
    assert NativeCache.bytes_needed(spec, batch=batch, capacity=capacity, number=number) == wanted


def test_the_engine_says_the_bytes_of_its_caches(engine: NativeEngine) -> None:
    cache = engine.new_cache(batch=2, capacity=70)
    assert engine.cache_bytes(batch=2, capacity=70) == cache.keys.nbytes + cache.values.nbytes


def test_steps_of_the_leading_rows(engine: NativeEngine) -> None:
    check_leading_rows(engine)


def test_what_lies_behind_a_row_is_not_read(engine: NativeEngine) -> None:
    """A cache may hold anything where nothing has been written."""
    tokens = random_tokens(engine.spec, 1, 30)
    wanted = by_steps(engine, tokens, 20)
    cache = engine.new_cache(batch=1, capacity=64)
    cache.keys[:] = np.nan
    cache.values[:] = np.nan
    found = engine.prefill(cache, tokens[:, :20], rows=np.array([19]))[:, 0]
    np.testing.assert_array_equal(found, wanted[:, 0])
    stepper = engine.stepper(cache)
    for i in range(20, 30):
        np.testing.assert_array_equal(stepper.step(tokens[:, i], np.array([i])), wanted[:, i - 19])


def test_callers_of_several_threads_take_turns(engine: NativeEngine) -> None:
    tokens = random_tokens(engine.spec, 6, 60)
    wanted = all_rows(engine, tokens)
    found: dict[int, np.ndarray] = {}

    def work(row: int) -> None:
        found[row] = by_steps(engine, tokens[row : row + 1], 30)[0]

    threads = [threading.Thread(target=work, args=(row,)) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(6):
        np.testing.assert_array_equal(found[row], wanted[row, 29:])


@pytest.mark.parametrize(
    "run",
    [
        lambda engine, cache: engine.prefill(cache, np.array([[0, 61]]), rows=np.array([1])),
        lambda engine, cache: engine.prefill(cache, np.array([[-1]]), rows=np.array([0])),
        lambda engine, cache: engine.prefill(cache, np.zeros((1, 65), dtype=np.int64), rows=np.array([0])),
        lambda engine, cache: engine.stepper(cache).step(np.array([0]), np.array([64])),
        lambda engine, cache: engine.stepper(cache).step(np.array([0]), np.array([-1])),
    ],
)
def test_nothing_is_read_or_written_outside(
    folder: Path, model: SmallModel, run: Callable[[NativeEngine, object], object]
) -> None:
    engine = open_native(folder, model)
    with pytest.raises(ShapeError, match="wanted 0 to"):
        run(engine, engine.new_cache(batch=1, capacity=64))


def test_unknown_instructions_are_refused(folder: Path, model: SmallModel) -> None:
    with pytest.raises(BackendUnavailableError, match="has no vax instructions"):
        NativeEngine(folder / "transformer.onnx", model.spec, threads=1, instructions="vax")


def test_a_bundle_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path, hidden_size=128)
    with pytest.raises(BundleError, match=r"(found|missing).*export the bundle again"):
        NativeEngine(folder / "transformer.onnx", other.spec, threads=1)
