"""What is asked of full TensorRT, which can't be installed everywhere and needs a GPU: on one that records."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from trt_vqgan.engine_records import Profile, ShapeRange
from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.export import bundle_engines, engine_builder
from trt_vqgan.export.engine_builder import build_engine, check_targets, possible_targets
from trt_vqgan.local_gpu import LocalGpu
from trt_vqgan.tensorrt_package import FULL, TensorRT

PROFILE = Profile(purpose="decode", shapes={"x": ShapeRange(minimum=(1, 1, 8), optimum=(8, 1, 8), maximum=(64, 1, 8))})
HOPPER = LocalGpu(index=0, name="NVIDIA H100", compute_capability=(9, 0))


class FakeTensorRT:
    """A module ``tensorrt`` that builds an engine, or doesn't, and refuses timing caches that it didn't make."""

    def __init__(self, *, builds: bool = True) -> None:
        self.calls: list[Any] = []
        outer = self
        names = types.SimpleNamespace

        class Logger:
            class Severity:
                INTERNAL_ERROR, ERROR, WARNING = range(3)

        class Config:
            num_compute_capabilities = 0

            def add_optimization_profile(self, profile: Any) -> int:
                return 0

            def create_timing_cache(self, data: bytes) -> Any:
                outer.calls.append(("cache", data))
                return names(data=data, serialize=lambda: b"timings")

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                assert not ignore_mismatch
                return cache.data in (b"", b"timings")

        class Network:
            pass

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Network:
                outer.calls.append(("network", flags))
                return Network()

            def create_builder_config(self) -> Config:
                outer.config = Config()
                return outer.config

            def create_optimization_profile(self) -> Any:
                return names(set_shape=lambda *arguments: outer.calls.append(("shape", *arguments)))

            def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
                if builds:
                    return b"engine"
                self.logger.log(1, "no tactic fits")
                return None

        self.config: Any = None
        self.ILogger, self.Builder = Logger, Builder
        self.OnnxParser = lambda network, logger: names(parse_from_file=lambda path: True)
        self.NetworkDefinitionCreationFlag = names(STRONGLY_TYPED=1)
        self.ProfilingVerbosity = names(DETAILED="detailed")
        self.BuilderFlag = names()
        self.IProgressMonitor = type("Monitor", (), {})


def build(module: FakeTensorRT, timings: Path) -> bytes:
    tensorrt = TensorRT(module=module, package=FULL, version="11.4.0")
    return build_engine(Path("x.onnx"), tensorrt=tensorrt, targets=("sm90",), profiles=(PROFILE,), timings=timings).data


def test_the_network_is_strongly_typed_and_for_the_gpu_here(tmp_path: Path) -> None:
    module = FakeTensorRT()
    assert build(module, tmp_path / "timing.cache") == b"engine"
    assert ("network", 1 << 1) in module.calls
    assert ("shape", "x", (1, 1, 8), (8, 1, 8), (64, 1, 8)) in module.calls
    assert module.config.num_compute_capabilities == 0
    assert module.config.max_aux_streams == 0


@pytest.mark.parametrize(
    ("stored", "tried"), [(None, [b""]), (b"timings", [b"timings"]), (b"foreign", [b"foreign", b""])]
)
def test_timings_are_kept_and_foreign_ones_left(tmp_path: Path, stored: bytes | None, tried: list[bytes]) -> None:
    path = tmp_path / "timing.cache"
    if stored is not None:
        path.write_bytes(stored)
    module = FakeTensorRT()
    build(module, path)
    assert [call[1] for call in module.calls if call[0] == "cache"] == tried
    assert path.read_bytes() == b"timings"


def test_a_refusal_carries_its_words_and_keeps_no_timings(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"TensorRT 11\.4\.0 can't build it for sm90\. TensorRT says: no tactic fits"):
        build(FakeTensorRT(builds=False), tmp_path / "timing.cache")
    assert not list(tmp_path.iterdir())


def test_targets_are_the_gpus_here(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt = TensorRT(module=None, package=FULL, version="11.4.0")
    monkeypatch.setattr(engine_builder, "local_gpus", lambda: (HOPPER, HOPPER))
    assert possible_targets(tensorrt) == ("sm90",)
    assert bundle_engines._usual_targets(tensorrt) == ("sm90",)
    with pytest.raises(BuildError, match="target sm86: TensorRT 11.4.0 builds for the GPU that it runs on, here sm90"):
        check_targets(["sm86"], tensorrt)

    def none() -> Any:
        raise BackendUnavailableError("no NVIDIA driver on this machine")

    monkeypatch.setattr(engine_builder, "local_gpus", none)
    with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver .*tensorrt-rtx"):
        possible_targets(tensorrt)
