"""The golden models as they are carried, and the comparison with them: on the processor's driver, in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.runtime.gpu.shim_device import ShimDevice, libraries
from tests.runtime.gpu.small_engines import host_engine
from tests.tolerances import LOGITS_FP32
from trt_vqgan.benchmarks.gpu_check import golden_files
from trt_vqgan.benchmarks.gpu_check.golden_files import GoldenModel, prepare, read_goldens
from trt_vqgan.benchmarks.gpu_check.goldens_stage import (
    HALF_LOGITS_RELATIVE,
    check_deterministic,
    check_golden,
    cuda_engine,
)
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.runtime.gpu.driver import DeviceEngine

RUN = ROOT / "tests" / "data" / "golden" / "class"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> GoldenModel:
    folder = tmp_path_factory.mktemp("goldens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_files, "_runs", lambda: iter([RUN]))
        assert prepare(folder) == ["class"]
    (found,) = read_goldens(folder)
    return found


@pytest.fixture(scope="module")
def engine(golden: GoldenModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceEngine]:
    made = host_engine(tmp_path_factory.mktemp("segments"), golden.spec, open_checkpoint(RUN).weights)
    yield made
    made.close()


def found_by(golden: GoldenModel, engine: DeviceEngine, folder: Path, *, relative: float) -> list[dict[str, Any]]:
    check_golden(Records(folder / "records", ceilings={}), golden, engine, relative=relative)
    return read_records(folder / "records")


def test_weights_are_those_of_the_checkpoint(golden: GoldenModel) -> None:
    wanted = np.asarray(open_checkpoint(RUN).weights["transformer.head.weight"])
    np.testing.assert_array_equal(golden.tensors["head.weight"], wanted.astype(np.float16))


def test_the_driver_is_right_in_float32(golden: GoldenModel, engine: DeviceEngine, tmp_path: Path) -> None:
    found = found_by(golden, engine, tmp_path, relative=LOGITS_FP32)
    assert [record["ok"] for record in found] == [True] * 4
    assert {record["detail"] for record in found[1:]} == {"equal"}


def test_the_cuda_executor_is_right_through_the_shim(golden: GoldenModel, tmp_path: Path) -> None:
    """What a GPU checks, with the same kernels; the first codes only, which take a second."""
    libraries()
    made = cuda_engine(golden, ShimDevice())
    found = found_by(shortened(golden, 24), made, tmp_path, relative=HALF_LOGITS_RELATIVE)
    made.close()
    assert [record["ok"] for record in found] == [True] * 4
    assert {record["detail"] for record in found[1:]} == {"equal"}


def test_deterministic_is_checked(golden: GoldenModel, tmp_path: Path) -> None:
    """Also planted: an engine that isn't."""
    libraries()
    for deterministic in (True, False):
        made = cuda_engine(golden, ShimDevice(), deterministic=deterministic)
        records = tmp_path / str(deterministic)
        check_deterministic(Records(records, ceilings={}), golden, made)
        assert [record["ok"] for record in read_records(records)] == [deterministic]
        made.close()


def shortened(golden: GoldenModel, count: int) -> GoldenModel:
    """Return a golden of ``count`` codes a picture."""
    arrays = {name: array if name == "c_indices" else array[:, :count] for name, array in golden.arrays.items()}
    return dataclasses.replace(golden, arrays=arrays)


def test_wrong_logits_and_codes_are_told(golden: GoldenModel, engine: DeviceEngine, tmp_path: Path) -> None:
    """Planted: logits off by a little more than float32's error, and a published code that is another."""
    arrays = {name: array.copy() for name, array in golden.arrays.items()}
    arrays["logits"] += 0.1
    arrays["greedy_indices"][0, 9] = (arrays["greedy_indices"][0, 9] + 1) % 128
    found = found_by(dataclasses.replace(golden, arrays=arrays), engine, tmp_path, relative=LOGITS_FP32)
    assert [record["ok"] for record in found] == [False] * 4
    assert "code 9 is" in found[1]["detail"]


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert list(read_goldens(tmp_path / "nothing")) == []
