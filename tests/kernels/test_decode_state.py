"""The end of a decode step: its definition against the runtime's sampler, and the kernel against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.shim.shim import CSRC, ShimLibrary, device_array, load, run_sanitized
from trt_vqgan.benchmarks.kernel_cases.decode_states import HIDDEN, POSITIONS, Step, random_step, run_kernel
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.sample_codes import MAX_VOCABULARY, DecodeStateAddresses, sample_codes
from trt_vqgan.kernels.reference.decode_state import (
    FREE,
    KEEP_ALL,
    SAMPLING_ROW,
    UNUSABLE,
    guided_logits,
    philox_random,
    sample_step,
)
from trt_vqgan.kernels.reference.sample_codes import exponent_rate, integer_weight
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.philox import random64
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.runtime.sampler import sample_codes as sample_on_cpu

SOURCE = CSRC / "sample_codes.cu"
SEED = 20


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load(["sample_codes.cu"])


def by_definition(step: Step) -> Step:
    """Return the step done by the reference."""
    done = step.placed(device_array)
    sample_step(
        done.logits,
        done.state,
        done.x,
        token_embedding=done.token_embedding,
        position_embedding=done.position_embedding,
    )
    return done


def check(library: ShimLibrary, step: Step, *, seed: int = 0, kernel: str | None = None) -> None:
    """The kernel writes what the definition writes, bit for bit."""
    wanted, found = by_definition(step), step.placed(device_array)
    run_kernel(library, found, seed=seed, kernel=kernel)
    for name, array in found.written().items():
        np.testing.assert_array_equal(array, wanted.written()[name], err_msg=name)


def steps(count: int, *, vocabularies: tuple[int, ...], batch: int = 3) -> list[Step]:
    """Steps of every kind of logits, with and without guidance, with both sorts of tables."""
    rng = np.random.default_rng(SEED)
    return [
        random_step(
            rng,
            vocabulary=(vocabulary := vocabularies[i % len(vocabularies)]),
            codebook_size=vocabulary if i % 3 else max(1, vocabulary - 5),
            batch=batch,
            kind=i % 7,
            guided=i % 4 == 3,
            tables=np.float32 if i % 2 else np.float16,
        )
        for i in range(count)
    ]


def step_on_a_boundary() -> Step:
    """Two equal codes, and random bits 0x80000000d3c19437: the target is the cumulative weight of the first exactly."""
    step = random_step(np.random.default_rng(0), vocabulary=2, batch=1)
    step.logits[:] = 0.5
    step.state.forced[:] = FREE
    step.state.pictures[:] = 0
    step.state.code_positions[:] = 0
    step.state.sampling[:] = np.array([(8071768748, exponent_rate(1.0), KEEP_ALL, 1, 0, 0, 2)], SAMPLING_ROW)
    return step


def step_on_the_edge(*, guided: bool) -> Step:
    """Rows of two codes of which top-p only just keeps or drops the second: a last bit of its weight decides."""
    rng = np.random.default_rng(9)
    batch = 400
    step = random_step(rng, vocabulary=2, batch=batch, guided=guided)
    step.logits[:] = 3 * rng.standard_normal((len(step.logits), 1)) + 0.2 * rng.standard_normal(step.logits.shape)
    step.state.forced[:] = FREE
    step.state.ends[:] = 9
    step.state.sampling["top_k"] = KEEP_ALL
    step.state.sampling["greedy"] = 0
    for row, setting in enumerate(step.state.sampling):
        setting["rate"] = exponent_rate(1.0)
        logits = step.logits[row]
        if guided:
            logits = guided_logits(logits, step.logits[batch + row], scale=setting["guidance_scale"])
        total = 2**30 + integer_weight(logits.min(), logits.max(), setting["rate"])
        top_p = np.float32(2**30 / total)
        while int(float(top_p) * total) < 2**30:
            top_p = np.nextafter(top_p, np.float32(2))
        while int(float(below := np.nextafter(top_p, np.float32(0))) * total) >= 2**30:
            top_p = below
        setting["top_p"] = below if row % 2 else top_p
    return step


def all_steps() -> list[Step]:
    return [
        *steps(42, vocabularies=(1, 2, 7, 64, 257, 1024)),
        step_on_a_boundary(),
        step_on_the_edge(guided=False),
        step_on_the_edge(guided=True),
    ]


# The definition.


def test_philox_is_the_runtime_s() -> None:
    assert philox_random(0, picture=0, position=0) == 0x6627E8D5E169C58D
    rng = np.random.default_rng(0)
    for _ in range(50):
        seed, (picture, position) = int(rng.integers(0, 2**64, dtype=np.uint64)), rng.integers(0, 2**32, 2)
        wanted = random64(seed, pictures=np.array([picture]), positions=np.array([position]))[0]
        assert philox_random(seed, picture=int(picture), position=int(position)) == wanted


def test_guidance_is_the_runtime_s() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 100)).astype(np.float32)
    wanted = Guidance(scale=2.7, null_condition=np.zeros(1, np.int64)).combined(logits)
    np.testing.assert_array_equal(guided_logits(logits[:3], logits[3:], scale=np.float32(2.7)), wanted)


def test_codes_are_those_of_the_runtime_s_sampler() -> None:
    compared = 0
    for step in steps(60, vocabularies=(1, 7, 65, 300), batch=2):
        done = by_definition(step)
        for row in step.state.active():
            column = step.state.columns[row]
            if step.state.forced[row, column] >= 0:
                continue
            setting = step.state.sampling[row]
            logits = step.logits[[row], : setting["codebook_size"]]
            if step.state.guided:
                other = step.logits[[row + 2], : setting["codebook_size"]]
                with np.errstate(all="ignore"):
                    logits = Guidance(
                        scale=float(setting["guidance_scale"]), null_condition=np.zeros(1, np.int64)
                    ).combined(np.concatenate([logits, other]))
            if not np.isfinite(logits.max()):
                assert done.state.codes[row, column] == UNUSABLE
                continue
            sampling = Sampling(
                temperature=float(np.float32(1.44269504) / setting["rate"]),
                top_k=int(setting["top_k"]),
                top_p=float(setting["top_p"]),
                greedy=bool(setting["greedy"]),
            )
            code = sample_on_cpu(
                logits,
                sampling,
                seed=int(setting["seed"]),
                pictures=step.state.pictures[[row]].astype(np.int64),
                positions=step.state.code_positions[[column]].astype(np.int64),
            )
            assert done.state.codes[row, column] == code[0]
            compared += 1
    assert compared > 40


def test_state_moves_on() -> None:
    step = random_step(np.random.default_rng(1), vocabulary=50, batch=3, guided=True)
    step.state.lengths[:] = [5, 6, POSITIONS - 1] * 2
    step.state.columns[:] = [2, 3, 4]
    step.state.ends[:] = [9, 3, 9]
    step.state.forced[0, 2] = 11
    step.state.forced[2, 4] = FREE
    done = by_definition(step)
    np.testing.assert_array_equal(done.state.columns, [3, 3, 5])
    np.testing.assert_array_equal(done.state.lengths, [6, 6, POSITIONS] * 2)
    assert done.state.codes[0, 2] == 11
    assert (done.state.codes[1] == FREE).all()
    wanted = step.token_embedding[11].astype(np.float32) + step.position_embedding[6].astype(np.float32)
    np.testing.assert_array_equal(done.x[[0, 3]], [wanted, wanted])
    np.testing.assert_array_equal(done.x[[1, 2, 4, 5]], step.x[[1, 2, 4, 5]])  # finished; behind the last position


def test_a_target_on_a_boundary_belongs_to_the_next_code() -> None:
    step = by_definition(step_on_a_boundary())
    assert step.state.codes.max() == 1


# The kernel.


@pytest.mark.parametrize("seed", [0, 1])
def test_kernel_is_the_definition(library: ShimLibrary, seed: int) -> None:
    for step in all_steps():
        check(library, step, seed=seed)


@pytest.mark.parametrize("kind", range(7))
def test_kernel_of_wide_vocabularies(library: ShimLibrary, kind: int) -> None:
    rng = np.random.default_rng(kind)
    for vocabulary in (1025, 16384):
        check(library, random_step(rng, vocabulary=vocabulary, batch=1, kind=kind, guided=kind == 2), seed=kind)


def test_kernel_that_reads_logits_again(library: ShimLibrary) -> None:
    for step in steps(14, vocabularies=(1, 1000, 1500), batch=1):
        check(library, step, kernel="sample_codes_streamed")
    check(library, random_step(np.random.default_rng(3), vocabulary=20000, batch=1, kind=2))


def test_every_combination_of_settings(library: ShimLibrary) -> None:
    rng = np.random.default_rng(5)
    for top_k in (1, 3, 40, KEEP_ALL):
        for top_p in (0, 0.5, 0.97, 1):
            for kind in (0, 2, 3):
                step = random_step(rng, vocabulary=60, batch=1, kind=kind)
                step.state.forced[:] = FREE
                step.state.sampling["top_k"] = top_k
                step.state.sampling["top_p"] = top_p
                step.state.sampling["greedy"] = 0
                check(library, step)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("greedy", [0, 1])
def test_unusable_logits_are_marked(library: ShimLibrary, value: float, greedy: int) -> None:
    step = random_step(np.random.default_rng(6), vocabulary=33, batch=2)
    step.state.forced[:] = FREE
    step.state.ends[:] = 9
    step.state.sampling["greedy"] = greedy
    step.logits[0] = -np.inf
    step.logits[0, 7] = value
    check(library, step)
    column = step.state.columns
    done = by_definition(step)
    assert done.state.codes[0, column[0]] == UNUSABLE
    assert done.state.codes[1, column[1]] >= 0


def test_logits_beyond_the_codebook_are_not_read(library: ShimLibrary) -> None:
    step = random_step(np.random.default_rng(7), vocabulary=70, codebook_size=32, batch=2)
    step.logits[:, 32:] = np.nan
    check(library, step)


def test_a_row_ends_with_its_logits(library: ShimLibrary) -> None:
    check(library, random_step(np.random.default_rng(7), vocabulary=70, codebook_size=80, batch=2, guided=True))


def test_a_step_can_be_replayed(library: ShimLibrary) -> None:
    """The same launch over and over fills in all codes, the state being all that changes."""
    step = random_step(np.random.default_rng(8), vocabulary=40, batch=4, guided=True)
    step.state.lengths[:] = 3
    step.state.columns[:] = 0
    step.state.ends[:] = [9, 0, 4, 9]
    wanted, found = step.placed(device_array), step.placed(device_array)
    for replay in range(11):
        wanted = by_definition(wanted)
        run_kernel(library, found, seed=replay)
    for name, array in found.written().items():
        np.testing.assert_array_equal(array, wanted.written()[name], err_msg=name)
    np.testing.assert_array_equal((found.state.codes != FREE).sum(axis=1), [9, 0, 4, 9])


def test_sizes_out_of_range_are_refused() -> None:
    addresses = DecodeStateAddresses(
        lengths=0, columns=0, ends=0, codes=0, forced=0, code_positions=0, pictures=0, sampling=0
    )

    def launch(vocabulary: int = 10, batch: int = 1, tables: type[np.floating] = np.float16) -> None:
        sample_codes(
            addresses,
            logits=0,
            x=0,
            token_embedding=0,
            position_embedding=0,
            batch=batch,
            num_codes=1,
            vocabulary=vocabulary,
            hidden_size=HIDDEN,
            num_positions=1,
            tables=np.dtype(tables),
        )

    launch()
    for bad in ({"vocabulary": 0}, {"vocabulary": MAX_VOCABULARY + 1}, {"batch": 0}, {"tables": np.float64}):
        with pytest.raises(ShapeError, match="sample_codes"):
            launch(**bad)


FAULTS = {
    "a tie dropped at top-p's cut": ("/ likelihood.weight(cut)) + 1;", "/ likelihood.weight(cut));"),
    "a tie dropped at top-k's cut": (
        "static_cast<uint64_t>(sampling.top_k) - 1;",
        "static_cast<uint64_t>(sampling.top_k) - 2;",
    ),
    "fused multiply-add in the weight": (
        "power = __fadd_rn(__fmul_rn(power, fraction), 1.0f);",
        "power = fmaf(power, fraction, 1.0f);",
    ),
    "fused multiply-add in guidance": (
        "__fadd_rn(base, __fmul_rn(scale, __fadd_rn(logit, -base)))",
        "fmaf(scale, __fadd_rn(logit, -base), base)",
    ),
    "counter words exchanged": ("c0 = position, c1 = picture", "c0 = picture, c1 = position"),
    "a target that is reached, not exceeded": ("!found && cumulative > target", "!found && cumulative >= target"),
    "ties counted in each thread alone": ("const uint32_t first_rank = ", "const uint32_t first_rank = 0 & "),
    "-0 below +0": ("if (bits == 0x80000000u) bits = 0;", ""),
    "the second row's length forgotten": ("if (guided) lengths[picture + batch] = length;", ""),
    "the position before": ("static_cast<size_t>(length) * hidden + i", "static_cast<size_t>(length - 1) * hidden + i"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> ShimLibrary:
    """Kernels sample_codes_fault0 and on, each with one of `FAULTS`."""
    source = SOURCE.read_text()
    kept = source.index("SAMPLE_CODES_KERNEL(sample_codes_1024")
    paths = []
    for number, (right, wrong) in enumerate(FAULTS.values()):
        assert source.count(right) == 1, right
        path = tmp_path_factory.mktemp("faults") / f"fault{number}.cu"
        path.write_text(
            source[:kept].replace(right, wrong) + f"SAMPLE_CODES_KERNEL(sample_codes_fault{number}, 256, 4)\n"
        )
        paths.append(path)
    return load(paths)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(faulty: ShimLibrary, fault: str) -> None:
    kernel = f"sample_codes_fault{list(FAULTS).index(fault)}"
    with pytest.raises(AssertionError):
        for step in all_steps():
            check(faulty, step, kernel=kernel)


def test_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "replayed or codebook or ends_with or again")
