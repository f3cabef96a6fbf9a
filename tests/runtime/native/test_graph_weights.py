"""The reader of ONNX files against the package onnx, and on damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.runtime.small_models import make_model
from trt_vqgan.errors import BundleError
from trt_vqgan.runtime.native.graph_weights import GraphWeights


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_weight_is_read_as_onnx_reads_it(tmp_path: Path, precision: str) -> None:
    make_model(tmp_path, precision=precision)
    path = tmp_path / "transformer.onnx"
    found = GraphWeights(path)
    initializers = onnx.load(path).graph.initializer
    assert len(initializers) > 20
    for tensor in initializers:
        wanted = numpy_helper.to_array(tensor)
        assert tensor.name in found
        assert found.shape(tensor.name) == wanted.shape
        np.testing.assert_array_equal(found.array(tensor.name, wanted.shape, wanted.dtype), wanted)


def one_weight(folder: Path, location: str = "data", offset: int = 0) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", "24")):
        tensor.external_data.add(key=key, value=value)
    path = folder / "graph.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString())
    (folder / "data").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    return path


def test_a_weight_in_a_data_file(tmp_path: Path) -> None:
    found = GraphWeights(one_weight(tmp_path)).array("w", (2, 3), np.float32)
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("v", (2, 3), np.float32, "has no weight 'v'"),
        ("w", (3, 2), np.float32, r"found float32 \(2, 3\), wanted float32 \(3, 2\)"),
        ("w", (2, 3), np.int32, r"found float32 \(2, 3\), wanted int32"),
    ],
)
def test_another_weight_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: type, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        GraphWeights(one_weight(tmp_path)).array(name, shape, dtype)


def test_a_data_file_that_is_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'w' can't be read from data.*export the bundle again"):
        GraphWeights(one_weight(tmp_path, offset=4)).array("w", (2, 3), np.float32)


@pytest.mark.parametrize("location", ["../data", "/data", "..", "a/b", "a\\b"])
def test_a_data_file_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(BundleError, match="lies outside the bundle"):
        GraphWeights(one_weight(tmp_path, location=location))


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"transformer\.onnx: can't be read"):
        GraphWeights(tmp_path / "transformer.onnx")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    path = one_weight(folder)
    content = bytearray(path.read_bytes())
    del content[data.draw(st.integers(1, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = GraphWeights(path).array("w", (2, 3), np.float32)
    except BundleError:
        return
    assert found.shape == (2, 3)
