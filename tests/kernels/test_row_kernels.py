"""layer_norm and what follows a matrix product (bias, GELU, residual): kernels on the processor against definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.shim.shim import CSRC, ShimLibrary, address, device_array, load, run_sanitized
from tests.tolerances import GELU_ABSOLUTE, LAYER_NORM_ABSOLUTE
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches import bias as bias_launches
from trt_vqgan.kernels.launches.layer_norm import layer_norm as layer_norm_launch
from trt_vqgan.kernels.reference import dense_step as reference
from trt_vqgan.kernels.reference.dense_step import Norm

SOURCES = ["layer_norm.cu", "bias.cu"]
SIZES = [(1, 8), (3, 104), (5, 264), (9, 1032), (64, 40)]
HALF = 2.0**-10  # a rounding to half that falls to the other side


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load(SOURCES)


def _close(found: NDArray[np.floating], wanted: NDArray[np.floating], absolute: float) -> None:
    relative = HALF if found.dtype == np.float16 else 2.0**-23
    error = np.abs(found.astype(np.float64) - wanted)
    assert (error <= absolute + relative * np.abs(wanted)).all(), error.max()


def check_layer_norm(library: ShimLibrary, rows: int, hidden: int) -> None:
    rng = np.random.default_rng(hidden)
    x = device_array((3 * rng.standard_normal((rows, hidden)) + 5).astype(np.float32))
    gain, bias = (device_array(rng.standard_normal(hidden).astype(np.float32)) for _ in range(2))
    out = device_array(np.full((rows, hidden), np.nan, np.float16))
    pointers = {"x": x, "gain": gain, "bias": bias, "out": out}
    library.launch(
        layer_norm_launch(
            **{name: int(address(array)) for name, array in pointers.items()}, rows=rows, hidden_size=hidden
        ),
        seed=1,
    )
    _close(out, reference.layer_norm(x, Norm(gain=gain, bias=bias)), LAYER_NORM_ABSOLUTE)


def check_bias(library: ShimLibrary, kind: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    y = device_array((2 * rng.standard_normal((rows, columns))).astype(np.float16))
    bias = device_array(rng.standard_normal(columns).astype(np.float32))
    x = device_array(rng.standard_normal((rows, columns)).astype(np.float32))
    wanted_y, wanted_x = y.copy(), x.copy()
    pointers = {"y": int(address(y)), "bias": int(address(bias))}
    if kind == "bias_residual":
        pointers["x"] = int(address(x))
        reference.bias_residual(wanted_y, bias, wanted_x)
    else:
        getattr(reference, kind)(wanted_y, bias)
    launch = getattr(bias_launches, kind)(**pointers, rows=rows, columns=columns)
    library.launch(launch, seed=1)
    _close(y, wanted_y.astype(np.float64), GELU_ABSOLUTE)
    _close(x, wanted_x.astype(np.float64), GELU_ABSOLUTE)


@pytest.mark.parametrize(("rows", "hidden"), SIZES)
def test_layer_norm(library: ShimLibrary, rows: int, hidden: int) -> None:
    check_layer_norm(library, rows, hidden)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("kind", ["bias_add", "bias_gelu", "bias_residual"])
def test_bias(library: ShimLibrary, kind: str, rows: int, columns: int) -> None:
    check_bias(library, kind, rows, columns)


def test_sizes_out_of_range_are_refused() -> None:
    for rows, columns in ((0, 8), (1, 0), (1, 6)):
        with pytest.raises(ShapeError, match="bias_add"):
            bias_launches.bias_add(y=0, bias=0, rows=rows, columns=columns)
        with pytest.raises(ShapeError, match="layer_norm"):
            layer_norm_launch(x=0, gain=0, bias=0, out=0, rows=rows, hidden_size=columns)


FAULTS = {
    "a row too many": ("layer_norm.cu", "static_cast<int>(blockIdx.x) * 4 +", "static_cast<int>(blockIdx.x) * 3 +"),
    "the bias of another column": ("bias.cu", "first % columns", "first % 8"),
    "half of a thread's residual": ("bias.cu", "sum.z += eight.value[4 * i + 2];", ""),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShimLibrary]:
    """Both sources with each of `FAULTS`."""
    found = {}
    for name, (faulty_source, right, wrong) in FAULTS.items():
        folder = tmp_path_factory.mktemp("faults")
        for source in SOURCES:
            text = (CSRC / source).read_text()
            if source == faulty_source:
                assert text.count(right) == 1, right
                text = text.replace(right, wrong)
            (folder / source).write_text(text)
        found[name] = load([folder / source for source in SOURCES])
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(faulty: dict[str, ShimLibrary], fault: str) -> None:
    with pytest.raises(AssertionError):
        for rows, columns in SIZES:
            check_layer_norm(faulty[fault], rows, columns)
            check_bias(faulty[fault], "bias_residual", rows, columns)


def test_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "test_layer_norm or test_bias")
