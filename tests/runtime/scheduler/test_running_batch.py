"""Codes in a crowd that comes and goes: the same, to the bit, as those of each picture alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtime.small_models import SmallModel, make_model, small_autoencoder
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.code_generator import FREE, CodeGenerator
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.scheduler import prefill
from trt_vqgan.runtime.scheduler.picture import PictureRequest, RunningPicture, outside_the_batch
from trt_vqgan.runtime.scheduler.running_batch import RunningBatch
from trt_vqgan.spec import ConditionSpec, ModelSpec

SIDE = 6
COUNT = SIDE * SIDE
SAMPLINGS = (Sampling(temperature=1.1, top_k=20, top_p=0.9), Sampling(), Sampling(greedy=True))
EXAMPLES = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def model_spec(model: SmallModel, *, num_tokens: int, permuted: bool = False) -> ModelSpec:
    permutation = tuple(np.random.default_rng(0).permutation(COUNT).tolist()) if permuted else None
    return ModelSpec(
        autoencoder=small_autoencoder(SIDE, 59),  # two tokens of the vocabulary name no code
        transformer=model.spec,
        condition=ConditionSpec(kind="boxes", num_tokens=num_tokens),
        permutation=permutation,
    )


def generator_of(model: SmallModel, num_tokens: int) -> CodeGenerator:
    return CodeGenerator(model_spec(model, num_tokens=num_tokens, permuted=num_tokens == 5), model.engine)


def alone(generator: CodeGenerator, request: PictureRequest) -> np.ndarray:
    codes: np.ndarray = generator.generate(
        request.condition[None],
        sampling=request.sampling,
        seed=request.seed,
        pictures=np.array([request.picture]),
        kept=None if request.kept is None else request.kept[None],
        guidance=request.guidance,
    )[0]
    return codes


def random_request(seed: int, num_tokens: int) -> PictureRequest:
    rng = np.random.default_rng(seed)
    kept = None
    how = rng.integers(4)
    if how == 1:  # leading codes, and some between
        kept = np.where(np.arange(COUNT) < rng.integers(1, COUNT), rng.integers(0, 59, COUNT), FREE)
    elif how == 2:
        kept = np.where(rng.random(COUNT) < 0.5, rng.integers(0, 59, COUNT), FREE)
    condition = rng.integers(0, 61, num_tokens)
    guidance = Guidance(scale=2.5, null_condition=np.zeros(num_tokens, np.int64)) if rng.integers(3) == 0 else None
    return PictureRequest(
        condition=condition, sampling=SAMPLINGS[rng.integers(3)], seed=int(rng.integers(1 << 60)),
        picture=int(rng.integers(1000)), kept=kept, guidance=guidance,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"), precision=request.param)


@dataclasses.dataclass
class Crowd:
    """A batch in which pictures are put when they fit, and from which some are taken before they are finished."""

    batch: RunningBatch
    generator: CodeGenerator

    def run(self, arrivals: list[tuple[int, int, int]], num_tokens: int) -> int:
        """Put in pictures (steps to wait, seed, steps after which it leaves or 0); return how many were compared."""
        waiting = [(step, random_request(seed, num_tokens), lasts) for step, seed, lasts in arrivals]
        ends: dict[RunningPicture, int] = {}
        compared = 0
        step = due = 0
        while waiting or self.batch.pictures:
            while waiting and step >= due and self.batch.has_room(waiting[0][1].width):
                after, request, lasts = waiting.pop(0)
                due = step + after
                picture = RunningPicture(self.generator, request)
                if not picture.finished:
                    self.batch.join(picture)
                    ends[picture] = step + lasts if lasts else 1 << 30
            finished, failed = self.batch.advance()
            assert not failed
            step += 1
            for picture in finished:
                np.testing.assert_array_equal(picture.codes(), alone(self.generator, picture.request))
                compared += 1
            for picture in self.batch.pictures:
                if ends[picture] <= step:
                    self.batch.leave(picture)
        assert self.batch.rows_in_use == 0
        return compared


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 1 << 30), st.sampled_from([0, 0, 0, 1, 9])), min_size=1, max_size=9
)


@pytest.mark.parametrize("num_tokens", [1, 5, 90])
@EXAMPLES
@given(arrivals=ARRIVALS, rows=st.sampled_from([2, 3, 5, 8]))
def test_codes_are_those_of_a_picture_alone(
    model: SmallModel, num_tokens: int, arrivals: list[tuple[int, int, int]], rows: int
) -> None:
    generator = generator_of(model, num_tokens)
    Crowd(RunningBatch(generator, rows=rows), generator).run(arrivals, num_tokens)


@pytest.mark.parametrize("num_unmasked", [0, 70])
@pytest.mark.parametrize("heads", [1, 2])
def test_prefixes_that_see_both_ways_and_wide_heads(tmp_path: Path, num_unmasked: int, heads: int) -> None:
    """Head size 136 goes by rows through ONNX Runtime; the condition of 80 sees itself both ways in part."""
    model = make_model(tmp_path, num_unmasked=num_unmasked, num_heads=heads, hidden_size=136 * heads)
    generator = generator_of(model, 80)
    arrivals = [(3, 10 + seed, 0) for seed in range(5)]
    assert Crowd(RunningBatch(generator, rows=4), generator).run(arrivals, 80) >= 4


def test_one_batch_serves_crowd_after_crowd(model: SmallModel) -> None:
    generator = generator_of(model, 5)
    crowd = Crowd(RunningBatch(generator, rows=4), generator)
    for seed in (0, 100, 200):
        assert crowd.run([(seed % 7, seed + i, 0) for i in range(6)], 5) > 3


def test_what_lies_in_a_row_from_before_is_noticed_if_it_counts(model: SmallModel) -> None:
    """A planted fault: a row that forgets to move leaves another picture's keys behind."""
    generator = generator_of(model, 1)
    batch = RunningBatch(generator, rows=3)
    requests = [dataclasses.replace(random_request(seed, 1), kept=None, guidance=None) for seed in range(3)]
    pictures = [RunningPicture(generator, request) for request in requests]
    for picture in pictures:
        batch.join(picture)
    for _ in range(10):
        batch.advance()
    batch._cache.copy_rows = lambda *_, **__: None
    batch.leave(pictures[0])
    while batch.pictures:
        batch.advance()
    np.testing.assert_array_equal(pictures[1].codes(), alone(generator, requests[1]))
    assert (pictures[2].codes() != alone(generator, requests[2])).any()


def test_a_prefill_does_not_hold_up_what_runs(model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two codes of a running picture, at most so many positions of another's prefix are computed."""
    generator = generator_of(model, 90)
    batch = RunningBatch(generator, rows=4)
    first = RunningPicture(generator, dataclasses.replace(random_request(1, 90), kept=None, guidance=None))
    batch.join(first)
    while not first.rows:
        batch.advance()
    spent = []
    advance = prefill.Prefill.advance

    def counted(self: prefill.Prefill, positions: int) -> tuple[int, prefill.Prefix | None]:
        found = advance(self, positions)
        spent.append(found[0])
        return found

    monkeypatch.setattr(prefill.Prefill, "advance", counted)
    batch.join(RunningPicture(generator, dataclasses.replace(random_request(2, 90), kept=None, guidance=None)))
    for wanted in (64, 26):
        before = first.column
        spent.clear()
        batch.advance()
        assert (sum(spent), first.column) == (wanted, before + 1)


def test_a_prefix_is_computed_once_for_the_pictures_of_a_request(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of(model, 90)
    batch = RunningBatch(generator, rows=8)
    request = dataclasses.replace(
        random_request(1, 90), kept=None, guidance=Guidance(scale=2.0, null_condition=np.ones(90, np.int64))
    )
    computed = []
    prefill_once = generator.engine.prefill
    monkeypatch.setattr(
        generator.engine, "prefill", lambda *args, **options: computed.append(1) or prefill_once(*args, **options)
    )
    pictures = [RunningPicture(generator, dataclasses.replace(request, picture=i)) for i in range(4)]
    for picture in pictures:
        batch.join(picture)
    while batch.pictures:
        batch.advance()
    assert len(computed) == 2
    monkeypatch.undo()
    for picture in pictures:
        np.testing.assert_array_equal(picture.codes(), alone(generator, picture.request))


def test_a_picture_without_a_code_to_draw_fails_alone(model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of(model, 1)
    batch = RunningBatch(generator, rows=4)
    pictures = [
        RunningPicture(generator, dataclasses.replace(random_request(seed, 1), guidance=None, kept=None,
                                                      sampling=SAMPLINGS[0]))
        for seed in range(3)
    ]  # fmt: skip
    for picture in pictures:
        batch.join(picture)
    batch.advance()
    logits = pictures[1].combined
    monkeypatch.setattr(pictures[1], "combined", lambda own: logits(own) * np.float32(np.nan))
    _, failed = batch.advance()
    assert [picture for picture, _ in failed] == [pictures[1]]
    with pytest.raises(ShapeError, match="found NaN"):
        raise failed[0][1]
    while batch.pictures:
        batch.advance()
    for i in (0, 2):
        np.testing.assert_array_equal(pictures[i].codes(), alone(generator, pictures[i].request))


def test_codes_are_shown_on_the_way(model: SmallModel) -> None:
    generator = generator_of(model, 5)  # permuted
    shown: list[np.ndarray] = []
    request = dataclasses.replace(random_request(3, 5), kept=None, on_codes=shown.append, codes_every=10)
    batch = RunningBatch(generator, rows=2)
    picture = RunningPicture(generator, request)
    batch.join(picture)
    while batch.pictures:
        batch.advance()
    assert [int((codes != FREE).sum()) for codes in shown] == [10, 20, 30]
    for codes in shown:
        assert codes.shape == (SIDE, SIDE)
        assert (codes[codes != FREE] == picture.codes()[codes != FREE]).all()


@pytest.mark.parametrize(
    ("sizes", "kept", "wanted"),
    [
        ({}, 0, ""),
        ({"one_pass": True, "num_unmasked": 5}, 0, "all codes at once"),
        ({"num_unmasked": 5}, 0, ""),
        ({"num_unmasked": 9}, 0, "computed again"),
        ({"num_unmasked": 9}, 4, ""),
        ({"num_unmasked": 90}, 35, "computed again"),
        ({"num_unmasked": 90}, 36, ""),
    ],
)
def test_what_runs_outside_the_batch(tmp_path: Path, sizes: dict, kept: int, wanted: str) -> None:
    num_tokens = COUNT if sizes.get("one_pass") else 5
    generator = generator_of(make_model(tmp_path, **sizes), num_tokens)
    codes = np.full(COUNT, FREE)
    codes[generator.order[:kept]] = 3
    request = dataclasses.replace(random_request(0, num_tokens), kept=codes)
    found = outside_the_batch(generator.spec, request)
    assert wanted in found
    assert bool(found) == bool(wanted)
    if not wanted and kept < COUNT:
        batch = RunningBatch(generator, rows=2)
        picture = RunningPicture(generator, request)
        batch.join(picture)
        while batch.pictures:
            batch.advance()
        np.testing.assert_array_equal(picture.codes(), alone(generator, request))
