"""The row of two pipelines at once: what it checks, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.benchmarks.concurrency import Row, measure, table
from trt_vqgan.errors import ParityError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concurrency")
    return trt_vqgan.export_checkpoint(make_checkpoint(folder / "run", kind="class"), folder / "bundle")


def test_a_row_of_two_pipelines(bundle: Path) -> None:
    with trt_vqgan.load(bundle, threads=1) as first, trt_vqgan.load(bundle, threads=1) as second:
        row = measure([first, second], batch_size=1, pictures=1, rounds=2)
        assert len(row.alone_s) == len(row.beside_s) == 2
        assert row.processors > 0
        assert row.backend == first.backend


def test_other_codes_show(bundle: Path) -> None:
    with trt_vqgan.load(bundle, threads=1) as first, trt_vqgan.load(bundle, threads=1) as second:
        generate = second.generate

        def planted(**arguments: Any) -> Any:
            return generate(**{**arguments, "seed": 1})

        second.generate = planted  # type: ignore[method-assign]
        with pytest.raises(ParityError, match="other codes beside another pipeline"):
            measure([first, second], batch_size=1, pictures=1, rounds=1)


def test_the_table_says_how_much_more_two_make() -> None:
    row = Row(backend="native", batch_size=8, alone_s=(1.0, 1.0, 1.2), beside_s=(1.25, 1.0, 1.2), processors=1.9)
    assert np.isclose(row.speedup, 2.0)
    assert table([row], pictures=4)[-1] == "| native | 8 | 1.00 s | 1.20 s | 2.00 (1.60 to 2.00) | 1.90 of 2 |"
