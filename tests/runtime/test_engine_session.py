"""What runs engines: every call in order on a TensorRT that records them, and the reasons of one that refuses."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from trt_vqgan.engine_records import EngineKey, store_engine
from trt_vqgan.errors import BackendUnavailableError, CudaError, EngineMismatchError, ShapeError
from trt_vqgan.local_gpu import local_gpus
from trt_vqgan.runtime import bundle_engines
from trt_vqgan.runtime.bundle_engines import find_engine, load_engine
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.tensorrt_package import PACKAGES, RTX, TensorRT, find_tensorrt


class Recorder:
    """Records calls; answers with what ``answers`` has for a name, else with True."""

    def __init__(self, calls: list[Any], **answers: Any) -> None:
        self.__dict__.update(calls=calls, answers=answers)

    def __getattr__(self, name: str) -> Any:
        if name in self.answers and not callable(self.answers[name]):
            return self.answers[name]

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self.answers[name](*arguments) if name in self.answers else True

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        self.calls.append((f"{name} =", value))


def fake_tensorrt(calls: list[Any], *, package: str = RTX, loads: bool = True, **context: Any) -> TensorRT:
    """Return a TensorRT whose engines have an input x and an output y."""
    made = Recorder(calls, update_device_memory_size_for_shapes=lambda: 4096, **context)
    engine = Recorder(
        calls,
        num_io_tensors=2,
        get_tensor_name=lambda i: "xy"[i],
        get_tensor_mode=lambda name: "IN" if name == "x" else "OUT",
        create_runtime_config=lambda: Recorder(calls),
        create_execution_context=lambda how: made,
    )

    class Logger:
        class Severity:
            INTERNAL_ERROR, ERROR = range(2)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if loads:
                return engine
            self.logger.log(1, "the serialized engine is of another version")
            return None

    names = types.SimpleNamespace
    module = names(
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=names(INPUT="IN"),
        ExecutionContextAllocationStrategy=names(USER_MANAGED="by caller"),
        DynamicShapesKernelSpecializationStrategy=names(EAGER="eager"),
        CudaGraphStrategy=names(DISABLED="none"),
    )
    return TensorRT(module=module, package=package, version="1.7.1")


@pytest.mark.parametrize("package", PACKAGES)
def test_calls_of_a_run(package: str) -> None:
    calls: list[Any] = []
    engine = LoadedEngine(b"engine", tensorrt=fake_tensorrt(calls, package=package), name="decoder")
    assert engine.tensors == ("x", "y")
    session = engine.session(profile=1, stream_handle=77)
    session.bind("x", 1000, (2, 8))
    session.bind("y", 2000, (2, 8))
    session.bind_scratch(3000, session.scratch_bytes())
    assert session.capturable(77)
    session.enqueue(77)
    queries = ("get_tensor_name", "get_tensor_mode", "create_runtime_config", "update_device_memory_size_for_shapes")
    done = [call for call in calls if call[0] not in queries]
    setup = done[: next(i for i, call in enumerate(done) if call[0] == "set_optimization_profile_async")]
    if package == RTX:
        assert [call[0] for call in setup] == [
            "set_execution_context_allocation_strategy",
            "dynamic_shapes_kernel_specialization_strategy =",
            "cuda_graph_strategy =",
            "create_execution_context",
        ]
        assert [call[1] for call in setup[:3]] == ["by caller", "eager", "none"]
    else:
        assert setup == [("create_execution_context", "by caller")]
    assert done[len(setup) :] == [
        ("set_optimization_profile_async", 1, 77),
        ("set_input_shape", "x", (2, 8)),
        ("set_tensor_address", "x", 1000),
        ("set_tensor_address", "y", 2000),
        ("set_device_memory", 3000, 4096),
        ("is_stream_capturable", 77),
        ("execute_async_v3", 77),
    ]


@pytest.mark.parametrize(
    ("refuses", "error", "message"),
    [
        ("set_optimization_profile_async", CudaError, "no context for profile 1"),
        ("set_input_shape", ShapeError, r"x of shape \(2, 8\) is outside of its profile"),
        ("set_tensor_address", ShapeError, "found tensor 'x'"),
        ("execute_async_v3", CudaError, "the engine of decoder didn't start"),
    ],
)
def test_refusals(refuses: str, error: type[Exception], message: str) -> None:
    tensorrt = fake_tensorrt([], **{refuses: lambda *arguments: False})
    engine = LoadedEngine(b"engine", tensorrt=tensorrt, name="decoder")
    with pytest.raises(error, match=message):
        session = engine.session(profile=1, stream_handle=77)
        session.bind("x", 1000, (2, 8))
        session.enqueue(77)


def test_an_engine_that_does_not_load_carries_tensorrts_words() -> None:
    with pytest.raises(
        EngineMismatchError, match=r"decoder can't be loaded .* TensorRT says: the serialized engine is"
    ):
        LoadedEngine(b"engine", tensorrt=fake_tensorrt([], loads=False), name="decoder")


def test_tensorrt_rtx_refuses_what_is_no_engine() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    with pytest.raises(EngineMismatchError, match="TensorRT says: "):
        LoadedEngine(b"no engine" * 100, tensorrt=find_tensorrt(RTX), name="decoder")


class OneGraph:
    """As much of a manifest as is asked for."""

    def gpu_graph_sha256(self, graph: str) -> str:
        return "a" * 64


def stored(folder: Path, **changes: Any) -> None:
    values = {
        "graph": "decoder",
        "graph_sha256": "a" * 64,
        "package": RTX,
        "version": "1.7.1",
        "targets": ("sm86",),
        "profiles": (),
    }
    store_engine(folder, EngineKey(**(values | changes)), b"engine", precisions={}, made_by="0.1")


def install(monkeypatch: pytest.MonkeyPatch, *installed: TensorRT) -> None:
    def find(package: str | None = None) -> TensorRT:
        for tensorrt in installed:
            if package in (None, tensorrt.package):
                return tensorrt
        raise BackendUnavailableError("not installed")

    monkeypatch.setattr(bundle_engines, "find_tensorrt", find)


def test_the_package_that_has_an_engine_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest: Any = OneGraph()
    stored(tmp_path)
    install(monkeypatch)
    with pytest.raises(BackendUnavailableError, match="not installed"):
        find_engine(tmp_path, manifest, "decoder", target="sm86")
    full, rtx = fake_tensorrt([], package="tensorrt"), fake_tensorrt([])
    install(monkeypatch, full)
    with pytest.raises(EngineMismatchError, match=r"built by TensorRT-RTX 1\.7\.1, TensorRT 1\.7\.1 is here"):
        find_engine(tmp_path, manifest, "decoder", target="sm86")
    install(monkeypatch, full, rtx)
    assert find_engine(tmp_path, manifest, "decoder", target="sm86")[0] is rtx
    assert load_engine(tmp_path, manifest, "decoder", target="sm86").tensors == ("x", "y")
    next((tmp_path / "engines").glob("*.engine")).write_bytes(b"changed")
    with pytest.raises(EngineMismatchError, match="not those that were built"):
        load_engine(tmp_path, manifest, "decoder", target="sm86")


def test_a_real_engine_without_a_gpu_says_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    pytest.importorskip("onnx")
    try:
        local_gpus()
    except BackendUnavailableError:
        pass
    else:
        pytest.skip("there is a GPU, where the engine loads")
    import numpy as np

    from trt_vqgan.export.engine_builder import build_engine
    from trt_vqgan.export.graph_builder import GraphBuilder

    graph = GraphBuilder("relu")
    graph.output("y", np.float16, [4, 8], graph.node("Relu", [graph.input("x", np.float16, [4, 8])]))
    path = tmp_path / "relu.onnx"
    path.write_bytes(graph.model().SerializeToString())
    tensorrt = find_tensorrt(RTX)
    built = build_engine(path, tensorrt=tensorrt, targets=("sm86",), profiles=())
    with pytest.raises(EngineMismatchError, match="TensorRT says: .*CUDA"):
        LoadedEngine(bytes(built.data), tensorrt=tensorrt, name="relu")
