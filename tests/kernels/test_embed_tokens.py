"""embed_tokens: its definition, and the kernel against it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.shim.shim import CSRC, ShimLibrary, load, run_sanitized
from trt_vqgan.benchmarks.kernel_cases.equal import check_embedding
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.embed_tokens import embed_tokens as launch_of
from trt_vqgan.kernels.reference.embed_tokens import embed_tokens

CASES = [(1, 1, 4), (2, 3, 8), (3, 5, 104), (1, 7, 1032)]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load(["embed_tokens.cu"])


@pytest.mark.parametrize(("batch", "length", "hidden"), CASES)
@pytest.mark.parametrize("tables", [np.float16, np.float32])
def test_kernel_is_the_definition(
    library: ShimLibrary, batch: int, length: int, hidden: int, tables: type[np.floating]
) -> None:
    check_embedding(library, batch, length, hidden, tables)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("static_cast<size_t>(positions[row])", "row"),
        ("static_cast<int>(blockDim.x) * 4)", "static_cast<int>(blockDim.x) * 8)"),
    ],
)
def test_planted_faults_are_caught(right: str, wrong: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = (CSRC / "embed_tokens.cu").read_text()
    assert source.count(right) == 1
    path = tmp_path_factory.mktemp("faults") / "embed_tokens_fault.cu"
    path.write_text(source.replace(right, wrong))
    library = load([path])
    with pytest.raises(AssertionError):
        for case in CASES:
            check_embedding(library, *case, np.float16)


def test_wrong_arrays_are_refused() -> None:
    table = np.zeros((3, 4), np.float32)
    index = np.zeros((2, 2), np.int32)
    out = np.zeros((2, 2, 4), np.float32)
    for tokens, positions in ((index[:1], index), (index + 3, index), (index, index - 1)):
        with pytest.raises(ShapeError, match="embed_tokens"):
            embed_tokens(tokens, positions, token_embedding=table, position_embedding=table, out=out)
    pointers = {"tokens": 0, "positions": 0, "token_embedding": 0, "position_embedding": 0, "out": 0}
    for rows, hidden, tables in ((0, 4, np.float16), (1, 6, np.float16), (1, 8, np.float64)):
        with pytest.raises(ShapeError, match="embed_tokens"):
            launch_of(**pointers, rows=rows, hidden_size=hidden, tables=np.dtype(tables))


def test_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "kernel_is_the_definition")
