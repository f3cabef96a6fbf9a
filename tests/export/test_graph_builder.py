"""The graph builder: what it writes runs, whether weights lie inside or beside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_vqgan.errors import ExportError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from trt_vqgan.export.graph_builder import SMALL_ALIGNMENT_BYTES, GraphBuilder, LazyArray

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((5, 3)).astype(np.float32)
BIAS = RNG.standard_normal(3).astype(np.float32)


def _linear(*, external: bool, stored: type = np.float32) -> GraphBuilder:
    g = GraphBuilder("linear", external=external)
    x = g.input("x", np.float32, ["B", 5])
    lazy = LazyArray(WEIGHT.shape, WEIGHT.dtype, lambda: WEIGHT)
    product = g.node("MatMul", [x, g.weight("weight", lazy, stored=stored)])
    g.output("y", np.float32, ["B", 3], g.node("Add", [product, g.weight("bias", BIAS)]))
    return g


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_saved_model_computes(tmp_path: Path, external: bool, stored: type) -> None:
    files = _linear(external=external, stored=stored).save(tmp_path / "linear.onnx")
    assert len(files) == (2 if external else 1)
    onnx.checker.check_model(str(files[0]), full_check=True)
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    np.testing.assert_allclose(_run(files[0], x), x @ WEIGHT.astype(stored).astype(np.float32) + BIAS, atol=1e-5)


def test_external_weights_are_aligned_and_lean(tmp_path: Path) -> None:
    model_path, data_path = _linear(external=True).save(tmp_path / "linear.onnx")
    model = onnx.load(str(model_path), load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data]
    assert [int(p["offset"]) for p in places] == [0, SMALL_ALIGNMENT_BYTES]
    assert {p["location"] for p in places} == {data_path.name}
    data = data_path.read_bytes()
    assert data[: WEIGHT.nbytes] == WEIGHT.tobytes()
    assert data[SMALL_ALIGNMENT_BYTES:] == BIAS.tobytes()


def test_a_lazy_weight_is_read_only_when_written(tmp_path: Path) -> None:
    reads: list[str] = []

    def load() -> np.ndarray:
        reads.append("read")
        return WEIGHT

    g = GraphBuilder("lazy", external=True)
    x = g.input("x", np.float32, ["B", 5])
    g.output("y", np.float32, ["B", 3], g.node("MatMul", [x, g.weight("w", LazyArray((5, 3), WEIGHT.dtype, load))]))
    assert reads == []
    g.save(tmp_path / "lazy.onnx")
    assert reads == ["read"]


def test_equal_constants_are_stored_once_and_scalars_stay_scalars() -> None:
    g = GraphBuilder("constants")
    first, second = g.constant([1, 2], dtype=np.int64), g.constant(np.array([1, 2]))
    assert first == second
    assert g.constant([1, 2], dtype=np.int32) != first
    assert g.constant(1.0, dtype=np.float32) != g.constant([1.0], dtype=np.float32)
    assert [list(t.dims) for t in g.model().graph.initializer] == [[2], [2], [], [1]]


def test_other_domains_are_imported() -> None:
    g = GraphBuilder("domains")
    x = g.input("x", np.float32, ["B"])
    g.output("y", np.float32, ["B"], g.node("Gelu", [x], domain="com.microsoft"))
    assert {o.domain: o.version for o in g.model().opset_import} == {"": 21, "com.microsoft": 1}


def test_an_output_that_no_node_makes_is_refused() -> None:
    g = GraphBuilder("outputs")
    (y,) = g.node("Relu", [g.input("x", np.float32, ["B"])], ["y"])
    g.output(y, np.float32, ["B"])
    onnx.checker.check_model(g.model(), full_check=True)
    with pytest.raises(ExportError, match="no node makes the output 'z'"):
        g.output("z", np.float32, ["B"])


def test_a_name_used_twice_is_refused() -> None:
    g = GraphBuilder("names")
    g.weight("w", WEIGHT)
    with pytest.raises(ExportError, match="'w' is used twice"):
        g.weight("w", WEIGHT)


def test_a_weight_that_overflows_float16_is_refused() -> None:
    g = GraphBuilder("overflow")
    g.weight("w", np.array([1e6], np.float32), stored=np.float16)
    with np.errstate(over="ignore"), pytest.raises(ExportError, match="does not fit float16"):
        g.model()


def test_too_many_inline_bytes_are_refused() -> None:
    g = GraphBuilder("large")
    g.weight("w", LazyArray((1 << 20, 1024), np.dtype(np.float32), lambda: WEIGHT))
    with pytest.raises(ExportError, match="external=True"):
        g.model()
