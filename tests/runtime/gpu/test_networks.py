"""A VQGAN's networks on a device: the goldens in fp32 on the CPU, TensorRT's profiles, and our kernels around them."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.export.autoencoder_cases import CASES, arrays_of, make_autoencoder
from tests.runtime.gpu.shim_device import ShimDevice
from tests.runtime.gpu.small_networks import device_autoencoder, part_of, write_graphs
from tests.runtime.test_golden import CONDITION_ARGUMENTS, golden_folder
from tests.tolerances import PICTURE_GREY_LEVELS
from trt_vqgan.errors import ShapeError
from trt_vqgan.export.autoencoder_graph import codebook_key
from trt_vqgan.export.checkpoint import open_checkpoint
from trt_vqgan.export.engine_profiles import engine_profiles
from trt_vqgan.runtime.autoencoder import Autoencoder, from_uint8, to_uint8
from trt_vqgan.runtime.device.host import HostDevice
from trt_vqgan.runtime.gpu.code_operations import CudaCodeOperations
from trt_vqgan.runtime.gpu.executors import networks as network_executors
from trt_vqgan.runtime.gpu.executors.networks import fitting_pictures
from trt_vqgan.runtime.gpu.executors.onnx_networks import OnnxNetworkExecutor
from trt_vqgan.runtime.gpu.executors.tensorrt_networks import NetworkEngine, TensorRTNetworkExecutor
from trt_vqgan.runtime.memory import decode_bytes
from trt_vqgan.runtime.tiled_decoder import decode_tiled
from trt_vqgan.spec import ModelSpec

SPEC = dataclasses.replace(CASES["base"], resolution=32)


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """The VQGAN of a golden checkpoint on a device of NumPy memory."""

    autoencoder: Autoencoder
    expected: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=list(CONDITION_ARGUMENTS))
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDevice]:
    run = golden_folder(request.param)
    checkpoint = open_checkpoint(run)
    weights = part_of(checkpoint.weights, "first_stage.")
    opened = device_autoencoder(tmp_path_factory.mktemp("networks"), checkpoint.spec.autoencoder, weights)
    yield OnDevice(opened, dict(np.load(run / "expected.npz")))
    opened.close()
    opened.close()


def test_golden_codes_and_pictures(golden: OnDevice) -> None:
    """Alone, and in the middle of a batch of three."""
    picture, wanted = from_uint8(golden.expected["image"][None]), golden.expected["z_indices"].reshape(1, -1)
    codes = golden.autoencoder.encode(picture)
    np.testing.assert_array_equal(codes.reshape(1, -1), wanted)
    batch = golden.autoencoder.encode(np.concatenate([-picture, picture, picture[:, :, ::-1]]))
    np.testing.assert_array_equal(batch[1], codes[0])
    pictures = golden.autoencoder.decode(batch)
    assert np.abs(pictures[1].astype(int) - golden.expected["reconstruction"]).max() <= PICTURE_GREY_LEVELS
    assert (pictures[0] != pictures[1]).any()


def test_golden_condition_codes(tmp_path: Path) -> None:
    run = golden_folder("depth")
    checkpoint, expected = open_checkpoint(run), dict(np.load(run / "expected.npz"))
    assert checkpoint.spec.condition is not None
    spec = checkpoint.spec.condition.autoencoder
    assert spec is not None
    opened = device_autoencoder(tmp_path, spec, part_of(checkpoint.weights, "condition."))
    maps = expected["cond_input"].astype(np.float32)
    np.testing.assert_array_equal(opened.encode(maps).reshape(1, -1), expected["c_indices"])


# ---- small VQGANs


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return arrays_of(make_autoencoder(SPEC))


def some_codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, SPEC.codebook_size, shape)


def test_gumbel_codes(tmp_path: Path) -> None:
    spec = CASES["gumbel"]
    arrays = arrays_of(make_autoencoder(spec))
    opened = device_autoencoder(tmp_path, spec, arrays)
    maps = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    session = ort.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(opened.encode(maps), session.run(["codes"], {"image": maps})[0])


def test_floats_of_one_picture_and_tiles(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    opened = device_autoencoder(tmp_path, SPEC, weights)
    codes = some_codes(1, 9, 20)
    pixels = opened.decode_pixels(codes[0])
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(pixels), opened.decode(codes)[0])
    np.testing.assert_array_equal(decode_tiled(opened, codes, tile=20, overlap=2), opened.decode(codes))


def test_pictures_run_at_once_as_far_as_memory_is_bounded(
    tmp_path: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, runs = HostDevice(), []

    class Counted(OnnxNetworkExecutor):
        def run(self, network: Any, given: Any, made: Any) -> None:
            runs.append((network, len(given)))
            super().run(network, given, made)

    executor = Counted(SPEC, write_graphs(tmp_path, SPEC, weights), device, number=np.float32)
    opened = device_autoencoder(tmp_path, SPEC, weights, device=device, executor=executor)
    codes = some_codes(11, 8, 8)
    at_once = opened.decode(codes)
    each = decode_bytes(SPEC, 8, 8)
    monkeypatch.setattr(network_executors, "PICTURE_BYTES", 3 * each)
    np.testing.assert_array_equal(opened.decode(codes), at_once)
    monkeypatch.setattr(network_executors, "PICTURE_BYTES", each // 2)
    opened.encode(np.zeros((2, 3, 32, 32), np.float32))
    assert runs == [("decoder", n) for n in (8, 3, 3, 3, 3, 2)] + [("encoder", 1)] * 2
    assert fitting_pictures(SPEC, "decoder", (1000, 1000, 24)) == 1


def test_the_kernels_around_the_networks(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """On the shim: what the networks make is the same, so every code and byte must be."""
    device, host = ShimDevice(), HostDevice()
    codebook = weights[codebook_key(SPEC)]
    operations = CudaCodeOperations(device, codebook, number=np.float32)
    opened = device_autoencoder(tmp_path, SPEC, weights, device=device, operations=operations)
    plain = device_autoencoder(tmp_path, SPEC, weights, device=host)
    maps = np.random.default_rng(2).uniform(-1, 1, (2, 3, 32, 24)).astype(np.float32)
    codes = opened.encode(maps)
    np.testing.assert_array_equal(codes, plain.encode(maps))
    np.testing.assert_array_equal(opened.decode(codes), plain.decode(codes))
    assert device.launched[-2:] == ["gather_codes_16", "pixels_float"]
    opened.close()


# ---- TensorRT


class FakeSession:
    """A context that runs the fp32 graph on what is bound when it is enqueued."""

    def __init__(self, engine: FakeEngine, profile: int) -> None:
        self.engine, self.profile = engine, profile
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.scratch = (0, 0)

    def bind(self, name: str, pointer: int, shape: Sequence[int]) -> None:
        assert pointer % 256 == 0, "TensorRT wants aligned tensors"
        self.bound[name] = (pointer, tuple(shape))

    def scratch_bytes(self) -> int:
        return 7 * self.bound[self.engine.input][1][0]

    def bind_scratch(self, pointer: int, size_bytes: int) -> None:
        self.scratch = (pointer, size_bytes)

    def enqueue(self, stream_handle: int) -> None:
        assert self.scratch[1] >= self.scratch_bytes()
        self.engine.runs.append((self.profile, self.bound[self.engine.input][1][0]))
        (made,) = self.engine.onnx.run(None, {self.engine.input: self.view(self.engine.input)})
        self.view(self.engine.onnx.get_outputs()[0].name)[...] = made

    def view(self, name: str) -> np.ndarray:
        pointer, shape = self.bound[name]
        content = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
        return np.ctypeslib.as_array(content).reshape(shape)


class FakeEngine:
    """An engine as far as `TensorRTNetworkExecutor` sees it."""

    def __init__(self, path: Path) -> None:
        self.onnx = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.input = self.onnx.get_inputs()[0].name
        self.runs: list[tuple[int, int]] = []
        self.made: list[int] = []
        self.saved = 0

    def session(self, *, profile: int, stream_handle: int) -> FakeSession:
        self.made.append(profile)
        return FakeSession(self, profile)

    def save_compiled(self) -> None:
        self.saved += 1


@pytest.fixture
def engines_and_autoencoder(tmp_path: Path, weights: dict[str, np.ndarray]) -> tuple[dict[str, Any], Autoencoder]:
    """Engines are None until they are loaded."""
    loaded: dict[str, Any] = {"encoder": None, "decoder": None}
    device = HostDevice()
    model = ModelSpec(autoencoder=SPEC, condition=None, transformer=None)

    def engine(name: Any, path: Path) -> NetworkEngine:
        def load() -> Any:
            loaded[name] = FakeEngine(path)
            return loaded[name]

        return NetworkEngine(load=load, profiles=engine_profiles(model, name))

    graphs = write_graphs(tmp_path, SPEC, weights)
    executor = TensorRTNetworkExecutor(
        SPEC, {name: engine(name, path) for name, path in graphs.items()}, device, title="TensorRT 0", number=np.float32
    )
    return loaded, device_autoencoder(tmp_path, SPEC, weights, device=device, executor=executor)


def test_batches_of_the_training_size_and_others_alone(
    engines_and_autoencoder: Any, tmp_path: Path, weights: dict[str, np.ndarray]
) -> None:
    engines, opened = engines_and_autoencoder
    plain = device_autoencoder(tmp_path, SPEC, weights)
    for shape in ((11, 8, 8), (2, 9, 3)):
        codes = some_codes(*shape)
        np.testing.assert_array_equal(opened.decode(codes), plain.decode(codes))
    assert engines["decoder"].runs == [(0, 8), (0, 3), (1, 1), (1, 1)]
    assert engines["decoder"].made == [0, 1], "a context a profile"
    assert engines["encoder"] is None, "loaded only when it is used"
    maps = np.random.default_rng(3).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(opened.encode(maps), plain.encode(maps))
    assert engines["encoder"].runs == [(0, 2)]
    assert opened.networks.describe() == "TensorRT 0, CPU"
    opened.close()
    assert [engine.saved for engine in engines.values()] == [1, 1]


def test_sizes_beyond_the_profiles(engines_and_autoencoder: Any) -> None:
    _, opened = engines_and_autoencoder
    with pytest.raises(ShapeError, match=r"found 65x2 codes, wanted at most 64x64 \(256x256 pixels\).*--decode-tiles"):
        opened.decode(some_codes(1, 2, 65))
    with pytest.raises(ShapeError, match="found 65x2 codes"):
        opened.decode_pixels(some_codes(2, 65))
    with pytest.raises(ShapeError, match="found 4x260 pixels, wanted at most 256x256.*--backend cuda"):
        opened.encode(np.zeros((1, 3, 260, 4), np.float32))
