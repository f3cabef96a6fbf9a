"""The nearest_code kernels on the CPU shim: equal to the definition in every bit."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.shim.shim import ShimLibrary, address, device_array, load, load_with_fault, run_sanitized
from trt_vqgan.benchmarks.kernel_cases.equal import look_up
from trt_vqgan.benchmarks.kernel_cases.nearest_code import CASES, Case
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.nearest_code import NearestCodePlan
from trt_vqgan.kernels.packed_codebook import PackedCodebook, pack_codebook
from trt_vqgan.kernels.reference.nearest_code import nearest_code, nearest_code_plain

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

SOURCE = "nearest_code.cu"
SHARED_LIMIT = 227 << 10
SMALL_SHARED_LIMIT = 99 << 10


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load([SOURCE])


def _look_up(
    library: ShimLibrary,
    z: F32,
    packed: PackedCodebook,
    *,
    multiprocessors: int = 1,
    shared_limit: int = SHARED_LIMIT,
    seed: int = 1,
) -> tuple[I32, I32]:
    """Return codes and looks, both int32 (M,), of z (M, D)."""
    return look_up(library, z, packed, multiprocessors=multiprocessors, shared_limit=shared_limit, seed=seed)


def _rng(*parts: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("rows", "size", "dim"),
    [
        (5, 1, 4),
        (9, 700, 4),
        (3, 65, 16),
        (2, 1, 17),
        (7, 63, 32),
        (33, 129, 32),
        (4, 65, 40),
        (129, 64, 64),
        (6, 1024, 64),
        (5, 300, 256),
        (3, 130, 512),
    ],
)
def test_small_shapes(library: ShimLibrary, case: Case, rows: int, size: int, dim: int) -> None:
    z, codebook = case(_rng(case.__name__, rows, size, dim), rows, size, dim)
    codes, _ = _look_up(library, z, pack_codebook(codebook))
    np.testing.assert_array_equal(codes, nearest_code_plain(z, codebook))


@pytest.mark.parametrize(("rows", "dim"), [(1, 4), (127, 16), (129, 32), (127, 64), (1, 256), (65, 512)])
@pytest.mark.parametrize("size", [16384])
def test_large_codebooks(library: ShimLibrary, rows: int, size: int, dim: int) -> None:
    rng = _rng("large", rows, dim)
    codebook = rng.standard_normal((size, dim), np.float32)
    z = codebook[rng.integers(0, size, rows)] + np.float32(0.5) * rng.standard_normal((rows, dim), np.float32)
    codes, looks = _look_up(library, z, pack_codebook(codebook), multiprocessors=5)
    np.testing.assert_array_equal(codes, nearest_code(z, codebook))
    if dim >= 64:
        assert (looks == 1).all()  # noise of half the code's length: the tensor-core pass settles every row


def test_gaussian_latents_take_few_looks(library: ShimLibrary) -> None:
    rng = _rng("gaussian")
    z, codebook = rng.standard_normal((64, 256), np.float32), rng.standard_normal((1024, 256), np.float32)
    codes, looks = _look_up(library, z, pack_codebook(codebook))
    np.testing.assert_array_equal(codes, nearest_code_plain(z, codebook))
    assert (looks == 1).mean() > 0.6


@pytest.mark.parametrize("dim", [4, 32, 64])
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_ties_go_to_the_lowest_index_in_any_order(library: ShimLibrary, dim: int, seed: int) -> None:
    rng = _rng("ties", dim)
    codebook = rng.standard_normal((640, dim), np.float32)
    codebook[[70, 71, 200, 639]] = codebook[3]
    codebook[[130, 517]] = codebook[129]
    z = np.concatenate([codebook[[3, 639, 129, 517]], codebook[[3, 130]] + np.float32(0.01)])
    codes, _ = _look_up(library, z, pack_codebook(codebook), multiprocessors=2, seed=seed)
    np.testing.assert_array_equal(codes, [3, 3, 129, 129, 3, 129])


@pytest.mark.parametrize("dim", [8, 32, 64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_and_entries_that_are_not_finite(library: ShimLibrary, dim: int, value: float) -> None:
    rng = _rng("not finite", dim)
    z, codebook = rng.standard_normal((6, dim), np.float32), rng.standard_normal((80, dim), np.float32)
    z[0] = value
    z[1, 5] = value
    codebook[0] = value
    codebook[13, 2] = value
    codes, _ = _look_up(library, z, pack_codebook(codebook))
    np.testing.assert_array_equal(codes, nearest_code_plain(z, codebook))
    np.testing.assert_array_equal(codes[:2], [0, 0])
    codes, _ = _look_up(library, z, pack_codebook(np.full((70, dim), value, np.float32)))
    np.testing.assert_array_equal(codes, np.zeros(6))


@pytest.mark.parametrize("z_scale", [1e-40, 1e-25, 1e-7, 1.0, 3e3, 1e8, 1e15, 1e19, 3e38])
@pytest.mark.parametrize("codebook_scale", [1e-42, 1e-19, 1.0, 1e6, 1e17, 1e19, 1e38])
def test_scales_apart(library: ShimLibrary, z_scale: float, codebook_scale: float) -> None:
    """Half overflows, squares overflow or underflow, or one side drowns in the other."""
    rng = _rng("scales")
    z = (rng.uniform(-1, 1, (6, 32)) * z_scale).astype(np.float32)
    codebook = (rng.uniform(-1, 1, (130, 32)) * codebook_scale).astype(np.float32)
    codebook[100] = z[2]
    codebook[101, :16] = z[3, :16]
    with np.errstate(all="ignore"):
        expected = nearest_code_plain(z, codebook)
    codes, _ = _look_up(library, z, pack_codebook(codebook))
    np.testing.assert_array_equal(codes, expected)


def test_entries_that_overflow_when_centred(library: ShimLibrary) -> None:
    codebook = np.zeros((66, 32), np.float32)
    codebook[::2], codebook[1::2], codebook[5] = 3.3e38, -3.3e38, -1e38
    z = codebook[[5, 0, 7]]
    with np.errstate(all="ignore"):
        expected = nearest_code_plain(z, codebook)
    np.testing.assert_array_equal(_look_up(library, z, pack_codebook(codebook))[0], expected)


def test_chunks_of_rows(library: ShimLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.kernels.launches.nearest_code._ROWS_AT_ONCE", 16)
    rng = _rng("chunks")
    z, codebook = rng.standard_normal((40, 32), np.float32), rng.standard_normal((70, 32), np.float32)
    codes, looks = _look_up(library, z, pack_codebook(codebook))
    np.testing.assert_array_equal(codes, nearest_code_plain(z, codebook))
    assert (looks >= 1).all()


@pytest.mark.parametrize(
    ("dim", "limit", "kernel"),
    [
        (32, SMALL_SHARED_LIMIT, "nearest_code_tiles_32"),
        (128, SMALL_SHARED_LIMIT, "nearest_code_tiles_64"),
        (256, SHARED_LIMIT, "nearest_code_tiles_64"),
        (256, SMALL_SHARED_LIMIT, "nearest_code_tiles_64_two_stages"),
        (512, SMALL_SHARED_LIMIT, "nearest_code_tiles_64_narrow"),
        (16, SMALL_SHARED_LIMIT, "nearest_code_exact"),
        (600, SMALL_SHARED_LIMIT, "nearest_code_exact"),
    ],
)
def test_the_kernel_fits_the_device(library: ShimLibrary, dim: int, limit: int, kernel: str) -> None:
    rng = _rng("fits", dim)
    z, codebook = rng.standard_normal((3, dim), np.float32), rng.standard_normal((140, dim), np.float32)
    packed = pack_codebook(codebook)
    plan = NearestCodePlan(codebook=packed, rows=3, multiprocessors=1, shared_limit=limit)
    launches = plan.launches(z=0, codebook=0, codes=0, workspace=0)
    assert kernel in [launch.kernel for launch in launches]
    assert max(launch.shared_bytes for launch in launches) <= limit
    np.testing.assert_array_equal(_look_up(library, z, packed, shared_limit=limit)[0], nearest_code_plain(z, codebook))


def test_matrix_loads_meet_no_bank_twice(library: ShimLibrary) -> None:
    for dim in (32, 64):
        rng = _rng("banks")
        packed = pack_codebook(rng.standard_normal((128, dim), np.float32))
        z, memory = device_array(rng.standard_normal((128, dim), np.float32)), device_array(packed.memory)
        plan = NearestCodePlan(codebook=packed, rows=128, multiprocessors=1, shared_limit=SHARED_LIMIT)
        workspace, codes = device_array(np.zeros(plan.workspace_bytes, np.uint8)), device_array(np.zeros(128, np.int32))
        for launch in plan.launches(
            z=int(address(z)),
            codebook=int(address(memory)),
            codes=int(address(codes)),
            workspace=int(address(workspace)),
        ):
            library.launch(launch)
            assert library.bank_conflicts == 0


def test_a_split_codebook_covers_the_device() -> None:
    packed = pack_codebook(np.zeros((16384, 256), np.float32))
    (tiles,) = [
        launch
        for launch in NearestCodePlan(
            codebook=packed, rows=256, multiprocessors=132, shared_limit=SHARED_LIMIT
        ).launches(z=0, codebook=0, codes=0, workspace=0)
        if "tiles" in launch.kernel
    ]
    assert tiles.grid == (2, 128, 1)


# ---- planted faults


def _differs(library: ShimLibrary, z: F32, codebook: F32) -> bool:
    packed = pack_codebook(codebook)
    expected = nearest_code_plain(z, codebook)
    return any(not np.array_equal(_look_up(library, z, packed, seed=seed)[0], expected) for seed in range(3))


def _near_ties(dim: int) -> tuple[F32, F32]:
    """Pairs of codes at nearly one distance: which is nearer shows behind half's precision only."""
    rng = _rng("near ties", dim)
    codebook = rng.standard_normal((256, dim), np.float32)
    codebook[1::2] = codebook[::2] * np.float32(1 + 2e-4)
    return codebook[rng.integers(0, 256, 128)] + np.float32(0.05) * rng.standard_normal(
        (128, dim), np.float32
    ), codebook


def _duplicates_far_apart(dim: int) -> tuple[F32, F32]:
    """Equal codes in many tiles and at both ends of one, so that each row is settled by the order of its looks."""
    z, codebook = _near_ties(dim)
    codebook[40:64] = codebook[200]
    return np.repeat(codebook[200:201], 16, axis=0) + z[:16] * np.float32(0.01), codebook


def _far_codes(dim: int) -> tuple[F32, F32]:
    rng = _rng("far", dim)
    codebook = rng.standard_normal((256, dim), np.float32)
    return codebook[rng.integers(0, 256, 40)], codebook


def _tiny_codebook(dim: int) -> tuple[F32, F32]:
    """Distances that differ in their last bits only."""
    rng = _rng("tiny", dim)
    return 4 * rng.standard_normal((48, dim), np.float32), rng.uniform(-1e-6, 1e-6, (512, dim)).astype(np.float32)


@pytest.mark.parametrize(
    ("right", "wrong", "arrays"),
    [
        ("tc::copy_async_wait<stages - 2>();", "tc::copy_async_wait<stages - 1>();", _far_codes(64)),
        ("return 1.05f * width + underflow;", "slack *= 0.01f; return 0.01f * width;", _near_ties(64)),
        ("best_code = tile * kTile +", "best_code = (tile + 1) % tiles * kTile +", _far_codes(64)),
        ("distance && candidate < code", "distance && candidate > code", _duplicates_far_apart(64)),
        (
            "total[r] < nearest[r]",
            "total[r] <= nearest[r]",
            (np.zeros((2, 4), np.float32), np.ones((600, 4), np.float32)),
        ),
        (
            "return __fadd_rn(total, __fmul_rn(difference, difference));",
            "return __fmaf_rn(difference, difference, total);",
            _tiny_codebook(16),
        ),
    ],
    ids=["wait short", "bound too narrow", "tile off by one", "higher index", "higher index, exact", "fused"],
)
def test_planted_faults_show(library: ShimLibrary, right: str, wrong: str, arrays: tuple[F32, F32]) -> None:
    assert not _differs(library, *arrays)
    assert _differs(load_with_fault(SOURCE, right, wrong), *arrays)


def test_small_shapes_under_the_address_sanitizer() -> None:
    output = run_sanitized(__file__, "-k", "test_small_shapes and (gaussian or huge) or chunks or the_kernel_fits")
    assert "passed" in output


def test_no_rows_are_refused() -> None:
    packed = pack_codebook(np.zeros((3, 4), np.float32))
    with pytest.raises(ShapeError, match="wanted at least one"):
        NearestCodePlan(codebook=packed, rows=0, multiprocessors=1, shared_limit=SHARED_LIMIT)


def test_depths_that_fit_nowhere_are_refused() -> None:
    packed = pack_codebook(np.zeros((3, 4096), np.float32))
    plan = NearestCodePlan(codebook=packed, rows=1, multiprocessors=1, shared_limit=SMALL_SHARED_LIMIT)
    with pytest.raises(ShapeError, match="a depth of 4096 takes 131584 bytes"):
        plan.launches(z=0, codebook=0, codes=0, workspace=0)


@pytest.mark.parametrize("codebook", [np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.zeros((3, 4))])
def test_codebooks_of_another_kind_are_refused(codebook: F32) -> None:
    with pytest.raises(ShapeError, match="wanted float32"):
        pack_codebook(codebook)
