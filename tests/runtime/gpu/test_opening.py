"""A bundle opened on a GPU that records its calls: kernels and weights go there, and nothing stays after an error."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import trt_vqgan
from tests.runtime.device.fake_cuda import FakeCuda
from tests.runtime.test_golden import golden_folder
from trt_vqgan.errors import BackendUnavailableError, BuildError, BundleError, CudaError
from trt_vqgan.manifest import Manifest, read_manifest
from trt_vqgan.runtime.backend_choice import BackendChoice
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.gpu import cuda_operations, kernels, opening
from trt_vqgan.runtime.gpu.opening import open_on_gpu

CUDA = BackendChoice(name="cuda", gpu=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = trt_vqgan.export_checkpoint(golden_folder("class"), tmp_path_factory.mktemp("gpu") / "bundle", gpu=True)
    return folder, read_manifest(folder)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(opening, "CudaDevice", lambda index: CudaDevice(index, libraries=made.libraries()))
    images = SimpleNamespace(images=(b"one", b"another"))
    monkeypatch.setattr(kernels, "kernel_images", lambda folder, architecture: {90: images}[architecture])
    return made


def test_kernels_and_weights_are_loaded_and_given_back(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    opened = open_on_gpu(CUDA, *bundle)
    assert opened.engine is not None
    assert opened.engine.describe() == "own CUDA kernels, cuBLASLt, NVIDIA Fake (cuda:0, sm_90)"
    assert [call[1] for call in fake.calls if call[0] == "cuModuleLoadDataEx"] == [3, 7]
    uploaded = sum(call[2] for call in fake.calls if call[0] == "htod")
    graphs = bundle[1].gpu
    assert graphs is not None
    assert graphs.weights is not None
    stored = (bundle[0] / graphs.weights).stat().st_size
    assert 0.9 * stored < uploaded < 1.5 * stored, "all weights, some of them padded to whole tiles"
    opened.close()
    opened.close()
    gc.collect()
    assert fake.leaks() == {}
    assert fake.depth == 0


def test_a_deterministic_choice_reaches_all_parts(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    for choice in (CUDA, dataclasses.replace(CUDA, deterministic=True)):
        models = open_on_gpu(choice, *bundle)
        engine = models.engine
        assert engine is not None
        parts = engine, engine._executor
        assert [part._deterministic for part in parts] == [choice.deterministic] * 2  # type: ignore[attr-defined]
        assert (engine._operations._chunk is not None) == choice.deterministic  # type: ignore[attr-defined]
        models.close()


def test_a_model_whose_heads_have_no_kernel(bundle: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_operations, "HEAD_SIZES", range(32, 129, 8))  # the golden model's heads are of 16
    with pytest.raises(BackendUnavailableError, match="heads of 16, wanted a multiple of 8 from 32 to 128"):
        open_on_gpu(CUDA, *bundle)


def no_compiler(folder: Path, architecture: int) -> None:
    raise BuildError("nvcc can't compile it")


@pytest.mark.parametrize(
    ("plant", "kind", "line"),
    [
        (lambda fake: fake.failing.update(cuMemAlloc="out of memory"), CudaError, "out of GPU memory while allocating"),
        (
            lambda fake: fake.failing.update(cuModuleLoadDataEx="no kernel image is available for execution"),
            BackendUnavailableError,
            "were not built for it",
        ),
        (lambda fake: fake.failing.update(htod="unspecified launch failure"), CudaError, "start it again"),
    ],
)
def test_errors_leave_nothing(
    bundle: tuple[Path, Manifest],
    fake: FakeCuda,
    plant: Callable[[FakeCuda], None],
    kind: type[Exception],
    line: str,
) -> None:
    plant(fake)
    with pytest.raises(kind, match=line):
        open_on_gpu(CUDA, *bundle)
    gc.collect()
    assert fake.leaks() == {}


def test_kernels_that_cannot_be_built(
    bundle: tuple[Path, Manifest], fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "kernel_images", no_compiler)
    with pytest.raises(BuildError, match="can't compile"):
        open_on_gpu(CUDA, *bundle)
    gc.collect()
    assert fake.leaks() == {}


def test_onnxruntime_without_its_cuda_provider(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    with pytest.raises(BackendUnavailableError, match="has no CUDAExecutionProvider.*pip install onnxruntime-gpu"):
        open_on_gpu(BackendChoice(name="onnxruntime", gpu=0), *bundle)
    gc.collect()
    assert fake.leaks() == {}


def test_weights_that_are_cut_off(bundle: tuple[Path, Manifest], fake: FakeCuda, tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "transformer.safetensors").write_bytes(b"1234")
    with pytest.raises(BundleError, match="its header would have"):
        open_on_gpu(CUDA, tmp_path, bundle[1])
    assert fake.calls == [], "told before the GPU is touched"
