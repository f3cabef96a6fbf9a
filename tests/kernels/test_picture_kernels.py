"""The kernels of a VQGAN's layers on the processor: convolutions, GroupNorm, attention, and what lies between."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from tests.kernels.shim.shim import KernelError, ShimLibrary, load, load_with_fault, run_sanitized
from tests.tolerances import (
    CONV_FLOAT_RELATIVE,
    CONV_RELATIVE,
    GROUP_NORM_ABSOLUTE,
    GROUP_NORM_CONSTANT,
    PICTURE_ATTENTION_ABSOLUTE,
    PICTURE_ATTENTION_FLOAT,
)
from trt_vqgan.benchmarks.kernel_cases.pictures import (
    FLOAT,
    HALF,
    ConvCase,
    check_argmax,
    check_attention,
    check_group_norm,
    check_layout,
)
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.conv2d import ConvPlan
from trt_vqgan.kernels.launches.group_norm import GroupNormPlan
from trt_vqgan.kernels.launches.picture_attention import picture_attention
from trt_vqgan.kernels.packed_conv import pack_conv

CONV, CONV_FLOAT = "conv2d.cu", "conv2d_float.cu"
LARGE = 1  # multiprocessors that the large tile is enough for

CONVOLUTIONS = {
    "one pixel": ConvCase(height=1, width=1, channels=3, outputs=3),
    "three channels in": ConvCase(batch=2, channels=3, outputs=40),
    "three channels out, planes": ConvCase(batch=2, channels=40, outputs=3, form="planes"),
    "many planes": ConvCase(batch=2, height=3, channels=24, outputs=19, form="planes"),
    "large tile": ConvCase(batch=2, height=9, width=8, channels=40, outputs=136, multiprocessors=LARGE),
    "large tile, residual": ConvCase(height=12, width=11, outputs=128, has_residual=True, multiprocessors=LARGE),
    "residual": ConvCase(batch=2, channels=96, outputs=96, has_residual=True),
    "residual of padded channels": ConvCase(channels=32, outputs=20, has_residual=True),
    "1x1": ConvCase(batch=3, channels=72, outputs=64, side=1),
    "1x1 of four channels": ConvCase(channels=4, outputs=4, side=1),
    "halved": ConvCase(batch=2, height=6, width=8, mode="halve"),
    "halved, odd": ConvCase(height=7, width=9, channels=8, mode="halve"),
    "doubled": ConvCase(batch=2, height=3, width=5, mode="double"),
    "doubled, large": ConvCase(height=5, width=5, outputs=128, mode="double", multiprocessors=LARGE),
    "floats": ConvCase(channels=16, outputs=5, form="float"),
}


@pytest.fixture(scope="module")
def conv() -> ShimLibrary:
    return load([CONV])


@pytest.fixture(scope="module")
def conv_float() -> ShimLibrary:
    return load([CONV_FLOAT])


@pytest.fixture(scope="module")
def norm() -> ShimLibrary:
    return load(["group_norm.cu"])


@pytest.fixture(scope="module")
def attention() -> ShimLibrary:
    return load(["picture_attention.cu"])


@pytest.fixture(scope="module")
def layout() -> ShimLibrary:
    return load(["picture_layout.cu"])


# ---- convolutions


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(conv: ShimLibrary, case: str) -> None:
    CONVOLUTIONS[case].check(conv, relative=CONV_RELATIVE)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_in_float(conv_float: ShimLibrary, case: str) -> None:
    floats = dataclasses.replace(CONVOLUTIONS[case], dtype=FLOAT)
    if floats.form == "half":
        floats = dataclasses.replace(floats, form="float")
    floats.check(conv_float, relative=CONV_FLOAT_RELATIVE)


def test_operands_meet_no_bank_twice(conv: ShimLibrary) -> None:
    for multiprocessors in (LARGE, 10**6):
        ConvCase(outputs=128, multiprocessors=multiprocessors).check(conv, relative=CONV_RELATIVE)
        assert conv.bank_conflicts == 0


def test_the_tile_follows_the_device() -> None:
    layer = pack_conv(np.ones((128, 32, 3, 3), np.float16), np.ones(128)).layer

    def kernel(side: int, multiprocessors: int) -> str:
        plan = ConvPlan(layer=layer, batch=1, height=side, width=side, pitch=128, multiprocessors=multiprocessors)
        return plan.launch(x=0, weights=0, bias=0, out=0).kernel

    assert [kernel(side, 132) for side in (16, 128, 256)] == ["conv2d_64x64", "conv2d_64x64", "conv2d_128x128"]
    assert kernel(16, 2) == "conv2d_128x128"


def test_wrong_convolutions_are_refused() -> None:
    with pytest.raises(ShapeError, match="k 1 or 3"):
        pack_conv(np.ones((4, 4, 5, 5), np.float16), np.ones(4))
    with pytest.raises(ShapeError, match="pack_conv: found float64"):
        pack_conv(np.ones((4, 4, 1, 1)), np.ones(4))
    layer = pack_conv(np.ones((4, 4, 3, 3), np.float16), np.ones(4)).layer
    with pytest.raises(ShapeError, match="1x1 pixels \\(halve\\)"):
        ConvPlan(layer=layer, batch=1, height=1, width=1, mode="halve", pitch=8, multiprocessors=1)
    with pytest.raises(ShapeError, match="a pitch of 4 for 4 channels"):
        ConvPlan(layer=layer, batch=1, height=1, width=1, pitch=4, multiprocessors=1)


FAULTS = {
    "a wait too short": (CONV, "copy_async_wait<kStages - 2>", "copy_async_wait<kStages - 1>", "large tile"),
    "no barrier": (CONV, "tc::copy_async_wait<kStages - 2>();\n        __syncthreads();", "", "large tile"),
    "the next tap too late": (CONV, "while (channel >= channels)", "if (channel > channels)", "three channels in"),
    "left of the picture": (CONV, "column >= 0 &&", "", "residual"),
    "padding on the wrong side": (
        CONV,
        "stride, pad);\n        images",
        "stride, side / 2);\n        images",
        "halved",
    ),
    "each pixel once": (CONV, "(column >> up);", "(column >> up) / 2;", "doubled"),
    "another channel's bias": (CONV, "(bias + made)", "(bias + (made & 7))", "residual"),
    "no residual for the second channel": (CONV, "second += added.y;", "", "residual"),
    "a chunk too few": (CONV_FLOAT, "begin < depth; begin", "begin < depth - kChunk; begin", "1x1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_of_convolutions_are_caught(fault: str) -> None:
    source, right, wrong, name = FAULTS[fault]
    case = CONVOLUTIONS[name]
    if source == CONV_FLOAT:
        case = dataclasses.replace(case, dtype=FLOAT, form="float")
    library = load_with_fault(source, right, wrong)
    with pytest.raises((AssertionError, KernelError)):
        for seed in range(1, 5):
            case.check(library, relative=CONV_FLOAT_RELATIVE if source == CONV_FLOAT else CONV_RELATIVE, seed=seed)


# ---- GroupNorm

NORMS = [(1, 1, 1, 32), (2, 3, 5, 64), (1, 9, 7, 96), (2, 8, 8, 512), (1, 1, 2, 2048), (1, 70, 9, 256)]


@pytest.mark.parametrize("shape", NORMS)
def test_group_norm(norm: ShimLibrary, shape: tuple[int, int, int, int]) -> None:
    check_group_norm(norm, shape, absolute=GROUP_NORM_ABSOLUTE)


@pytest.mark.parametrize(
    ("given", "made", "swish"), list(itertools.product([HALF, FLOAT], [HALF, FLOAT], [False, True]))
)
def test_group_norm_of_all_dtypes(
    norm: ShimLibrary, given: np.dtype[np.floating], made: np.dtype[np.floating], swish: bool
) -> None:
    check_group_norm(norm, (2, 4, 5, 64), given=given, made=made, swish=swish, absolute=GROUP_NORM_ABSOLUTE)


def test_group_norm_of_nearly_constant_pictures(norm: ShimLibrary) -> None:
    """A mean of a thousand deviations: E[x^2] - E[x]^2 would be lost."""
    case = {"given": FLOAT, "made": FLOAT, "mean": 300.0, "deviation": 0.3, "swish": False}
    check_group_norm(norm, (1, 40, 41, 128), **case, absolute=GROUP_NORM_CONSTANT)
    check_group_norm(norm, (1, 6, 6, 64), **(case | {"deviation": 0.0}), absolute=GROUP_NORM_ABSOLUTE)


def test_wrong_norms_are_refused() -> None:
    for channels in (0, 48, 2080):
        with pytest.raises(ShapeError, match="group_norm"):
            GroupNormPlan(batch=1, pixels=4, channels=channels, given=HALF, made=HALF)


NORM_FAULTS = {
    "parts of the wrong size": "begin + pixels_of_part, pixels);\n        all.join",
    "statistics of one lane": "of_lane < lanes",
    "a mean without its rest": "fmaf(sums[i], inverse, kept[i])",
    "squares of the whole": "difference * difference * count * share",
}
NORM_WRONG = {
    "parts of the wrong size": "begin + pixels_of_part, 0x7fffffff);\n        all.join",
    "statistics of one lane": "of_lane < 1",
    "a mean without its rest": "kept[i]",
    "squares of the whole": "0.f",
}


@pytest.mark.parametrize("fault", NORM_FAULTS)
def test_planted_faults_of_group_norm_are_caught(fault: str) -> None:
    library = load_with_fault("group_norm.cu", NORM_FAULTS[fault], NORM_WRONG[fault])
    with pytest.raises((AssertionError, KernelError)):
        check_group_norm(library, (1, 70, 9, 256), absolute=GROUP_NORM_ABSOLUTE)


# ---- attention


@pytest.mark.parametrize(
    ("batch", "positions", "channels"), [(1, 1, 32), (2, 16, 96), (1, 33, 128), (2, 70, 160), (1, 49, 512)]
)
def test_attention(attention: ShimLibrary, batch: int, positions: int, channels: int) -> None:
    check_attention(attention, batch, positions, channels, absolute=PICTURE_ATTENTION_ABSOLUTE)
    assert attention.bank_conflicts == 0
    check_attention(attention, batch, positions, channels, dtype=FLOAT, absolute=PICTURE_ATTENTION_FLOAT)


def test_attention_with_sharp_and_large_scores(attention: ShimLibrary) -> None:
    """One position takes nearly all: the largest score moves from tile to tile."""
    check_attention(attention, 1, 130, 32, spread=40.0, absolute=PICTURE_ATTENTION_ABSOLUTE)


def test_wrong_attention_is_refused() -> None:
    sizes = {"batch": 1, "positions": 4, "channels": 32, "pitch": 32, "dtype": HALF, "shared_limit": 99 << 10}
    pointers = {"q": 0, "k": 0, "v": 0, "out": 0}
    for change, match in (
        ({"channels": 520, "pitch": 520}, "520 channels, wanted at most 512"),
        ({"channels": 12, "pitch": 16}, "12 channels"),
        ({"positions": 40_000, "dtype": FLOAT}, "at most 25336; decode in tiles"),
    ):
        with pytest.raises(ShapeError, match=match):
            picture_attention(**pointers, **(sizes | change))


ATTENTION_FAULTS = [
    ("tile + column + j < positions ? score", "true ? score"),
    ("fmaf(l[i], corrections[i], low + high)", "l[i] + low + high"),
    ("sums[j].r[2] *= corrections[1], sums[j].r[3] *= corrections[1];", ""),
    ("__syncthreads();  // all maxima are there, and everyone has read the keys", ""),
]


@pytest.mark.parametrize("index", range(len(ATTENTION_FAULTS)))
def test_planted_faults_of_attention_are_caught(index: int) -> None:
    library = load_with_fault("picture_attention.cu", *ATTENTION_FAULTS[index])
    with pytest.raises((AssertionError, KernelError)):
        for seed in range(1, 5):
            check_attention(library, 1, 70, 32, spread=3.0, absolute=PICTURE_ATTENTION_ABSOLUTE, seed=seed)


# ---- between the layers


@pytest.mark.parametrize("dtype", [HALF, FLOAT])
@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (2, 6, 4, 24), (3, 4, 10, 19)])
def test_layout(layout: ShimLibrary, shape: tuple[int, int, int, int], dtype: np.dtype[np.floating]) -> None:
    check_layout(layout, shape, dtype)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 50), (3, 1024)])
def test_argmax(layout: ShimLibrary, rows: int, columns: int) -> None:
    check_argmax(layout, rows, columns)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("row / 2 * width", "row * width"),
        ("other == best && other_code < code", "other == best"),
        ("channel < channels ?", "true ?"),
        ("as_float(second[pitch])", "as_float(second[0])"),
    ],
)
def test_planted_faults_between_the_layers_are_caught(right: str, wrong: str) -> None:
    library = load_with_fault("picture_layout.cu", right, wrong)
    with pytest.raises(AssertionError):
        check_layout(library, (3, 4, 10, 19), HALF)
        check_argmax(library, 9, 50)


def test_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(
        __file__, "-k", "(test_convolutions or test_group_norm or test_attention or test_layout) and not 2048"
    )
