"""A bundle opened on a GPU that records its calls: kernels and weights go there, and nothing stays after an error."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from tests.runtime.device.fake_cuda import STREAM, FakeCuda
from tests.runtime.test_golden import golden_folder
from trt_vqgan.errors import BackendUnavailableError, BuildError, BundleError, CudaError
from trt_vqgan.export.engine_profiles import engine_profiles
from trt_vqgan.manifest import Manifest, read_manifest
from trt_vqgan.runtime.backend_choice import BackendChoice
from trt_vqgan.runtime.bundle_vqgans import BundleVqgan, read_vqgans
from trt_vqgan.runtime.device.cuda import CudaDevice
from trt_vqgan.runtime.gpu import cuda_operations, kernels, networks_opening, opening
from trt_vqgan.runtime.gpu.opening import open_on_gpu
from trt_vqgan.runtime.jit_cache import JitCache
from trt_vqgan.runtime.pipeline import Pipeline

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


# ---- the networks of a VQGAN


def vqgans(bundle: tuple[Path, Manifest]) -> list[BundleVqgan]:
    return [each for each in read_vqgans(*bundle) if each is not None]


def test_networks_by_our_kernels(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    """A picture goes through the whole network on a GPU that computes nothing: the order of calls, and what is left."""
    opened = open_on_gpu(CUDA, *bundle, vqgans(bundle))
    networks = opened.networks["encoder"]
    assert networks.describe() == "own CUDA kernels, NVIDIA Fake (cuda:0, sm_90)"
    fake.calls.clear()
    side = bundle[1].model.autoencoder.latent_size
    factor = bundle[1].model.autoencoder.factor
    images = np.empty((2, side * factor, side * factor, 3), np.uint8)
    networks.decode(np.zeros((2, side, side), np.int64), images)
    names = fake.names()
    assert [name for name in names if name == "dtoh"] == ["dtoh"], "bytes come back once, of both pictures"
    launched = [call[1] for call in fake.calls if call[0] == "launch"]
    assert launched[0].startswith("gather_codes")
    assert launched[-2:] == ["conv2d_128x16", "pixels_half"]
    assert {call[-1] for call in fake.calls if call[0] == "launch"} == {STREAM}, "the transformer's own stream"
    codes = np.empty((1, side, side), np.int64)
    networks.encode(np.zeros((1, 3, side * factor, side * factor), np.float32), codes)
    assert fake.names()[-1] == "pop"
    opened.close()
    opened.close()
    gc.collect()
    assert fake.leaks() == {}
    assert fake.depth == 0


def test_an_error_inside_a_network_leaves_it_usable(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    opened = open_on_gpu(CUDA, *bundle, vqgans(bundle))
    networks, factor = opened.networks["encoder"], bundle[1].model.autoencoder.factor
    codes, images = np.zeros((1, 2, 3), np.int64), np.empty((1, 2 * factor, 3 * factor, 3), np.uint8)
    networks.decode(codes, images)
    fake.failing.update(cuMemAlloc="out of memory")
    with pytest.raises(CudaError, match="out of GPU memory"):
        networks.decode(codes, images)
    fake.failing.clear()
    networks.decode(codes, images)
    opened.close()
    gc.collect()
    assert fake.leaks() == {}


def test_a_vqgan_alone(fake: FakeCuda, tmp_path: Path) -> None:
    folder = trt_vqgan.export_checkpoint(make_checkpoint(tmp_path / "run", kind="vq"), tmp_path / "bundle", gpu=True)
    alone = folder, read_manifest(folder)
    with Pipeline(*alone, threads=1, choice=CUDA) as pipe:
        assert pipe.backend_details == "cuda (encoder and decoder: own CUDA kernels, NVIDIA Fake (cuda:0, sm_90))"
        assert pipe.precision == "fp16"
        assert pipe.decode(np.zeros((2, 2), np.int64)).shape[0] == 1
    gc.collect()
    assert fake.leaks() == {}


def test_networks_as_engines(bundle: tuple[Path, Manifest], fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph's engine is found at once, and a network's is loaded when it is first used."""
    found: list[str] = []

    def find(folder: Path, manifest: Manifest, graph: str, *, target: str) -> object:
        assert target == "sm90"
        found.append(graph)
        key = SimpleNamespace(profiles=engine_profiles(manifest.model, graph))
        return SimpleNamespace(title="TensorRT 0"), SimpleNamespace(key=key, sha256=f"{len(found):032x}" * 2)

    loaded: list[str] = []

    compiled: list[str] = []
    jits: list[str] = []

    def load(data: bytes, *, tensorrt: object, name: str, jit: JitCache) -> SimpleNamespace:
        loaded.append(name)
        assert jit.path.name.endswith("-nvidia-fake.jit")
        jits.append(jit.path.name)
        return SimpleNamespace(save_compiled=lambda: compiled.append(name))

    for module in (opening, networks_opening):
        monkeypatch.setattr(module, "find_engine", find)
        monkeypatch.setattr(module, "LoadedEngine", load)
        monkeypatch.setattr(module, "read_engine", lambda folder, record: b"")
    opened = open_on_gpu(BackendChoice(name="tensorrt", gpu=0), *bundle, vqgans(bundle))
    assert found[-2:] == ["encoder", "decoder"]
    assert not {"encoder", "decoder"} & set(loaded)
    assert opened.networks["encoder"].describe() == "TensorRT 0, NVIDIA Fake (cuda:0, sm_90)"
    opened.close()
    assert compiled == loaded, "what was compiled is kept"
    assert len(set(jits)) == len(loaded), "a file an engine"
    gc.collect()
    assert fake.leaks() == {}


def test_a_vqgan_that_the_kernels_do_not_take(bundle: tuple[Path, Manifest], fake: FakeCuda) -> None:
    (pictures,) = vqgans(bundle)
    wide = dataclasses.replace(pictures, spec=dataclasses.replace(pictures.spec, base_channels=1024))
    with pytest.raises(BackendUnavailableError, match="channels, wanted at most"):
        open_on_gpu(CUDA, *bundle, [wide])
    assert fake.calls == [], "told before the GPU is touched"
