"""pixels: the definition against what the runtime writes, the kernel on the CPU shim against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.kernels.shim.shim import load, load_with_fault, run_sanitized
from trt_vqgan.benchmarks.kernel_cases.equal import random_planes, run_pixels
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.pixels import pixels as launch_of
from trt_vqgan.kernels.reference.pixels import pixels
from trt_vqgan.runtime.autoencoder import to_uint8

SOURCE = "pixels.cu"


SHAPES = [(1, 3, 16, 16), (2, 3, 32, 48), (2, 3, 5, 7), (1, 1, 16, 16), (2, 4, 3, 3), (1, 3, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_equal_to_the_definition(shape: tuple[int, ...], dtype: DTypeLike) -> None:
    planes = random_planes(shape, dtype)
    np.testing.assert_array_equal(run_pixels(load([SOURCE]), planes), pixels(planes))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_definition_is_what_the_runtime_does(shape: tuple[int, ...]) -> None:
    planes = random_planes(shape, np.float32)
    np.testing.assert_array_equal(pixels(planes), np.stack([to_uint8(picture) for picture in planes]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_that_are_no_pixels(dtype: DTypeLike) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 6e4, -6e4, 1, -1, 0.99, 0, -0.0, 1e-7, -1e-7], dtype).reshape(
        1, 3, 1, 4
    )
    expected = [0, 255, 0, 255, 0, 255, 0, 253, 127, 127, 127, 127]
    np.testing.assert_array_equal(pixels(values).transpose(0, 3, 1, 2).reshape(-1), expected)
    np.testing.assert_array_equal(run_pixels(load([SOURCE]), values), pixels(values))


def test_every_half() -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    planes = np.stack([values, values[::-1], np.roll(values, 5)]).reshape(1, 3, 256, 256)
    np.testing.assert_array_equal(run_pixels(load([SOURCE]), planes), pixels(planes))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            "static_cast<unsigned>(fminf(fmaxf(scaled, 0.f), 255.f))",
            "static_cast<unsigned>(rintf(fminf(fmaxf(scaled, 0.f), 255.f)))",
        ),
        ("level[word * 4 + 1] << 8", "level[word * 4 + 1] << 9"),
        ("__fmul_rn(__fadd_rn(x, 1.f), 127.5f)", "__fmaf_rn(x, 127.5f, 127.5f)"),
    ],
    ids=["rounded", "channels shifted", "fused"],
)
def test_planted_faults_show(right: str, wrong: str) -> None:
    planes = random_planes((1, 3, 32, 48), np.float32)
    assert not np.array_equal(run_pixels(load_with_fault(SOURCE, right, wrong), planes), pixels(planes))


def test_shapes_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "equal_to_the_definition")


def test_other_sizes_and_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match="wanted at least 1 of each"):
        launch_of(planes=0, pictures=0, batch=1, channels=3, height=0, width=4, dtype=np.dtype(np.float32))
    with pytest.raises(ShapeError, match="wanted float16 or float32"):
        launch_of(planes=0, pictures=0, batch=1, channels=3, height=4, width=4, dtype=np.dtype(np.float64))
