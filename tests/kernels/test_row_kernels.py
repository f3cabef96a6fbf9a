"""layer_norm and what follows a matrix product (bias, GELU, residual): kernels on the processor against definitions."""

from __future__ import annotations

import pytest

from tests.kernels.shim.shim import CSRC, ShimLibrary, load, run_sanitized
from tests.tolerances import GELU_ABSOLUTE, LAYER_NORM_ABSOLUTE
from trt_vqgan.benchmarks.kernel_cases import rows as rows_cases
from trt_vqgan.benchmarks.kernel_cases.rows import BIAS_KINDS
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches import bias as bias_launches
from trt_vqgan.kernels.launches.layer_norm import layer_norm as layer_norm_launch

SOURCES = ["layer_norm.cu", "bias.cu"]
SIZES = [(1, 8), (3, 104), (5, 264), (9, 1032), (64, 40)]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load(SOURCES)


def check_layer_norm(library: ShimLibrary, rows: int, hidden: int) -> None:
    rows_cases.check_layer_norm(library, rows, hidden, absolute=LAYER_NORM_ABSOLUTE)


def check_bias(library: ShimLibrary, kind: str, rows: int, columns: int) -> None:
    rows_cases.check_bias(library, kind, rows, columns, absolute=GELU_ABSOLUTE)


@pytest.mark.parametrize(("rows", "hidden"), SIZES)
def test_layer_norm(library: ShimLibrary, rows: int, hidden: int) -> None:
    check_layer_norm(library, rows, hidden)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("kind", BIAS_KINDS)
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
