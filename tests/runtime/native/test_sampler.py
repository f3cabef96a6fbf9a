"""The native sampler: equal to the vectorised one in every bit and error, with any instructions."""

from __future__ import annotations

import itertools
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime import test_sampler as vectorised
from trt_vqgan.errors import BackendUnavailableError, ShapeError
from trt_vqgan.kernels.reference.sample_codes import kept_weights
from trt_vqgan.runtime.native.build import SOURCES, built_library, find_compiler, find_library
from trt_vqgan.runtime.native.sampler import NativeSampler
from trt_vqgan.runtime.sampler import Sampling, draw_codes

if find_compiler() is None and find_library() is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)

FloatArray = npt.NDArray[np.float32]
UInt64Array = npt.NDArray[np.uint64]

LARGEST = 16384
LIBRARY = """
extern "C" void *sampler_choose(const char *) { return (void *)cpu::draw_tables::kPlain; }
extern "C" int64_t sampler_draw(void *, const cpu::DrawTask *task) {
    static thread_local int32_t numbers[4][4096];
    static thread_local uint64_t sums[4096], counted[cpu::kDrawDigits];
    return cpu::draw_tables::kPlain(*task, {numbers[0], numbers[1], numbers[2], numbers[3], sums, counted});
}
"""
"""What stands in for kernels/cpu/sampler_library.cpp where there is one instruction set, for rows of up to 4096."""

EDGES = (0, 1, 2**32, 2**63, 2**64 - 2**32, 2**64 - 1)


def open_samplers() -> list[NativeSampler]:
    """Return a sampler of each instruction set that this processor has."""
    library, opened = built_library(), []
    for instructions in ("avx512", "avx2", "plain"):
        try:
            opened.append(NativeSampler(library, instructions=instructions))
        except BackendUnavailableError:
            assert instructions != "plain"
    return opened


@pytest.fixture(scope="module")
def samplers() -> list[NativeSampler]:
    return open_samplers()


@pytest.fixture(params=["avx512", "avx2", "plain"])
def sampler(request: pytest.FixtureRequest) -> NativeSampler:
    try:
        return NativeSampler(built_library(), instructions=request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@dataclass(frozen=True, kw_only=True)
class Case:
    logits: FloatArray
    sampling: Sampling
    random: UInt64Array


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    """Of all widths, with ties, few values, excluded codes, and random numbers at the ends of their range."""
    small = draw(vectorised.any_case())
    if draw(st.booleans()):
        logits, sampling = small.logits, small.sampling
    else:
        size = draw(st.one_of(st.integers(1, LARGEST), st.sampled_from([24, 25, 127, 128, 129, 2048, 2049, LARGEST])))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        logits = rng.normal(0, draw(st.sampled_from([0.01, 1.0, 3.0, 40.0])), (2, size)).astype(np.float32)
        steps = draw(st.sampled_from([0, 1, 4, 64]))
        if steps:  # many ties, -0 among them
            logits = (np.round(logits * steps) / steps).astype(np.float32)
        if draw(st.booleans()):
            logits[:, rng.random(size) < draw(st.sampled_from([0.1, 0.9, 0.999]))] = -np.inf
            logits[:, rng.integers(size)] = draw(st.sampled_from([-3e38, -1.0, -0.0, 1e-40, 3e38]))
        k = st.one_of(st.none(), st.integers(1, size + 1), st.sampled_from([1, size, 2**70, max(1, size // 3)]))
        sampling = Sampling(
            temperature=draw(st.sampled_from([1e-38, 0.05, 1.0, 1.7, 1e38])),
            top_k=draw(k),
            top_p=draw(st.one_of(st.sampled_from(vectorised.TOP_PS), st.floats(0, 1))),
            greedy=draw(st.integers(0, 7)) == 0,
        )
    numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1))
    random = np.array([draw(numbers) for _ in logits], dtype=np.uint64)
    return Case(logits=logits, sampling=sampling, random=random)


@settings(max_examples=250, deadline=None)
@given(case=any_case())
def test_equals_the_vectorised_sampler(samplers: list[NativeSampler], case: Case) -> None:
    check_case(samplers, case)


def check_case(samplers: list[NativeSampler], case: Case) -> None:
    wanted = draw_codes(case.logits, case.sampling, random=case.random)
    for sampler in samplers:
        found = sampler.draw_codes(case.logits, case.sampling, random=case.random)
        assert found.dtype == np.int64
        assert found.tolist() == wanted.tolist()


def fixed_cases() -> list[Case]:
    """Every way of sampling at every width that takes another path, with many random numbers."""
    rng = np.random.default_rng(5)
    cases = []
    for size in (1, 2, 24, 25, 300, 3000):
        for levels in (1, 100):
            logits = (np.round(rng.normal(0, 2, (16, size)) * levels) / levels).astype(np.float32)
            for k, p in ((None, 1.0), (3, 1.0), (size // 2 + 1, 0.7), (None, 0.5), (None, 0.0), (20, 0.92)):
                random = rng.integers(0, 2**64, 16, dtype=np.uint64)
                cases.append(Case(logits=logits, sampling=Sampling(top_k=k, top_p=p, temperature=1.1), random=random))
                if size <= 300:
                    cases.append(borders(cases[-1]))
    return cases


def borders(case: Case) -> Case:
    """Return the first row with the random numbers beside each border between two codes: they show every weight."""
    sampling = case.sampling
    weights = kept_weights(case.logits[0], temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    total, numbers = sum(weights), [0, 2**64 - 1]
    for border in itertools.accumulate(weights):
        if 0 < border < total:
            first = -(-(border << 64) // total)  # the first whose product with the total reaches the border
            numbers += [first - 1, first]
    random = np.array(numbers, dtype=np.uint64)
    return Case(logits=np.broadcast_to(case.logits[0], (len(random), len(weights))), sampling=sampling, random=random)


def test_equals_it_on_fixed_cases(samplers: list[NativeSampler]) -> None:
    for case in fixed_cases():
        check_case(samplers, case)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank++ >= kept", "rank++ > kept"),  # one more of those that tie at top-p's cut
        ("uint64_t(task.top_k) - 1", "uint64_t(task.top_k)"),  # the k + 1-st
        ("> budget) return", ">= budget) return"),  # the cut one value too early
        ("while (target >= uint32_t(weights[code]))", "while (target > uint32_t(weights[code]))"),
        ("power * fraction + 1.0f", "__builtin_fmaf(power, fraction, 1.0f)"),  # rounded once
    ],
)
def test_planted_faults_show(old: str, new: str, tmp_path: Path) -> None:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    sampler = planted(compiler, tmp_path, old, new)
    with pytest.raises(AssertionError, match="=="):
        for case in fixed_cases():
            check_case([sampler], case)


def test_nothing_planted_shows_nothing(tmp_path: Path) -> None:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    sampler = planted(compiler, tmp_path, "rank++ >= kept", "rank++ >= kept")
    for case in fixed_cases():
        check_case([sampler], case)


@pytest.mark.parametrize(
    "row", [[0, np.nan, 1], [np.inf, -np.inf, 0], [-np.inf] * 3, [np.inf, np.nan, 0], [0, -np.nan, -np.inf]]
)
@pytest.mark.parametrize("greedy", [False, True])
def test_refuses_what_the_vectorised_sampler_does(sampler: NativeSampler, row: list[float], greedy: bool) -> None:
    logits = np.array([[0, 1, 2], row, [np.nan] * 3], dtype=np.float32)
    if np.signbit(row[1]) and np.isnan(row[1]):
        logits.view(np.uint32)[1, 1] |= 0x80000000
    random = np.zeros(3, dtype=np.uint64)
    with pytest.raises(ShapeError) as wanted:
        draw_codes(logits, Sampling(greedy=greedy), random=random)
    with pytest.raises(ShapeError, match=f"^{re.escape(str(wanted.value))}$"):
        sampler.draw_codes(logits, Sampling(greedy=greedy), random=random)


@pytest.mark.parametrize(
    ("logits", "random"),
    [
        (np.zeros(3, np.float32), np.zeros(3, np.uint64)),
        (np.zeros((1, 3)), np.zeros(1, np.uint64)),
        (np.zeros((1, 3), np.float32), np.zeros(2, np.uint64)),
        (np.zeros((1, 3), np.float32), np.zeros(1, np.int64)),
        (np.zeros((1, 0), np.float32), np.zeros(1, np.uint64)),
        (np.zeros((1, 3), ">f4"), np.zeros(1, np.uint64)),
    ],
)
def test_refuses_the_same_shapes(sampler: NativeSampler, logits: FloatArray, random: UInt64Array) -> None:
    with pytest.raises(ShapeError) as wanted:
        draw_codes(logits, Sampling(), random=random)
    with pytest.raises(ShapeError, match=f"^{re.escape(str(wanted.value))}$"):
        sampler.draw_codes(logits, Sampling(), random=random)


def test_takes_arrays_of_any_strides(sampler: NativeSampler) -> None:
    rng = np.random.default_rng(1)
    wide = rng.normal(0, 2, (12, 80)).astype(np.float32)
    numbers = rng.integers(0, 2**64, (6, 3), dtype=np.uint64)
    shifted = np.zeros(6 * 50 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(6, 50)
    shifted[:] = wide[:6, :50]
    late = np.zeros(6 * 8 + 4, np.uint8)[4:].view(np.uint64)
    late[:] = numbers[:, 0]
    views = [wide[:6, :50], wide[::2, 10:60], wide[5::-1, :50], wide[:6, ::-1], np.asfortranarray(wide[:6]), shifted]
    views += [np.broadcast_to(wide[0], (6, 80)), wide[:6, 3:4], wide[:0]]
    for view in views:
        for random in (numbers[: len(view), 1], numbers[::-1, 2][: len(view)], late[: len(view)]):
            wanted = draw_codes(view, Sampling(top_k=9, top_p=0.8), random=random)
            assert sampler.draw_codes(view, Sampling(top_k=9, top_p=0.8), random=random).tolist() == wanted.tolist()


def test_threads_draw_at_once(sampler: NativeSampler) -> None:
    cases = fixed_cases()
    wanted = [draw_codes(case.logits, case.sampling, random=case.random).tolist() for case in cases]
    found: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        found[number] = [sampler.draw_codes(c.logits, c.sampling, random=c.random).tolist() for c in cases]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [wanted] * 4


def test_an_unknown_instruction_set_is_an_error() -> None:
    with pytest.raises(BackendUnavailableError, match="no vax instructions"):
        NativeSampler(built_library(), instructions="vax")


def planted(compiler: str, folder: Path, old: str, new: str) -> NativeSampler:
    """Return a sampler of the plain instructions whose source has ``new`` in the place of ``old``."""
    source = (SOURCES / "sampler.cpp").read_text()
    assert source.count(old) == 1, old
    (folder / "sampler.cpp").write_text(source.replace(old, new) + LIBRARY)
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-DCPU_TABLE=kPlain"]
    library = folder / "sampler.so"
    subprocess.run([*command, "-I", str(SOURCES), str(folder / "sampler.cpp"), "-o", str(library)], check=True)
    return NativeSampler(library)
