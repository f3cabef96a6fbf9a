"""Memory of the caller's: read without a copy, written into, and results lent out; everything checked by pointer."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.buffers import host_array, result_array
from trt_vqgan.runtime.pipeline import Pipeline


class Producer:
    """DLPack and nothing else, on a device that the test names."""

    def __init__(self, content: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.content, self.device = content, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        return self.content.__dlpack__(**options)


class Recorded:
    """A VQGAN's networks that remember where what they were given lies."""

    def __init__(self, networks: Any) -> None:
        self._networks = networks
        self.seen: list[int] = []

    def encode(self, maps: np.ndarray, codes: np.ndarray) -> None:
        self.seen += addresses(maps)
        self._networks.encode(maps, codes)

    def decode(self, codes: np.ndarray, images: np.ndarray) -> None:
        self.seen += addresses(codes)
        self._networks.decode(codes, images)

    def close(self) -> None:
        self._networks.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buffers")
    return trt_vqgan.export_checkpoint(make_checkpoint(folder / "run", kind="class"), folder / "bundle")


@pytest.fixture
def pipe(bundle: Path) -> Any:
    with trt_vqgan.load(bundle, threads=1, backend="onnxruntime") as opened:
        yield opened


@pytest.fixture
def networks(pipe: Pipeline) -> Recorded:
    autoencoder = pipe._models.autoencoder
    autoencoder.networks = Recorded(autoencoder.networks)
    return autoencoder.networks


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def addresses(arrays: Any) -> list[int]:
    return [part.ctypes.data for part in arrays]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, Producer, memoryview])
def test_floats_are_encoded_where_they_lie(pipe: Pipeline, networks: Recorded, kind: Any) -> None:
    maps = np.random.default_rng(1).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    codes = pipe.encode(kind(maps))
    assert networks.seen == addresses(maps)
    np.testing.assert_array_equal(codes, pipe.encode(maps.tolist() if kind is memoryview else maps.copy()))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, Producer, memoryview])
def test_codes_are_decoded_where_they_lie(pipe: Pipeline, networks: Recorded, kind: Any) -> None:
    codes = pipe.encode(pictures())
    networks.seen.clear()
    images = pipe.decode(kind(codes))
    assert networks.seen == addresses(codes)
    np.testing.assert_array_equal(images, pipe.decode(codes.astype(np.int32)))


def test_what_must_be_converted_is_copied(pipe: Pipeline, networks: Recorded) -> None:
    """The pointers above would be worth nothing if they were equal anyway."""
    maps = np.zeros((1, 3, 32, 32))
    pipe.encode(maps)
    assert networks.seen != addresses(maps)


def test_results_go_where_they_are_wanted(pipe: Pipeline) -> None:
    wanted_codes = pipe.encode(pictures())
    wanted_images = pipe.decode(wanted_codes)
    codes = np.full_like(wanted_codes, -7)
    assert pipe.encode(pictures(), out=codes) is codes
    np.testing.assert_array_equal(codes, wanted_codes)
    images = np.zeros_like(wanted_images)
    assert pipe.decode(codes, out=images) is images
    np.testing.assert_array_equal(images, wanted_images)
    tiled = np.zeros_like(wanted_images)
    assert pipe.decode(codes, out=tiled, tiles=True) is tiled
    np.testing.assert_array_equal(tiled, wanted_images)
    single = np.zeros_like(wanted_images[:1])
    pipe.decode(codes[0], out=single)
    np.testing.assert_array_equal(single, wanted_images[:1])


@pytest.mark.parametrize("kind", [torch.from_numpy, Producer, memoryview])
def test_results_go_into_other_libraries_memory(pipe: Pipeline, kind: Any) -> None:
    wanted = pipe.encode(pictures())
    codes = np.zeros_like(wanted)
    found = pipe.encode(pictures(), out=kind(codes))
    assert found.ctypes.data == codes.ctypes.data
    np.testing.assert_array_equal(codes, wanted)


def test_results_are_lent_by_dlpack(pipe: Pipeline) -> None:
    result = pipe.generate(n=1)
    for made in (result.images, result.codes, pipe.encode(result.images), pipe.decode(result.codes)):
        assert torch.from_dlpack(made).data_ptr() == made.ctypes.data


def read_only(content: np.ndarray) -> np.ndarray:
    content.flags.writeable = False
    return content


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.uint8), r"found uint8 \(2, 16, 16, 3\), wanted uint8 \(2, 32, 32, 3\)"),
        (np.zeros((2, 32, 32, 3), np.int8), "found int8"),
        (np.zeros((2, 32, 32, 3), np.float32), "found float32"),
        (np.zeros((2, 32, 32, 6), np.uint8)[..., ::2], "wanted a C-contiguous array"),
        (np.zeros((2, 32, 32, 3), np.uint8, order="F"), "wanted a C-contiguous array"),
        (read_only(np.zeros((2, 32, 32, 3), np.uint8)), "read-only"),
        (bytes(2 * 32 * 32 * 3), r"found uint8 \(6144,\)"),
        (memoryview(bytes(2 * 32 * 32 * 3)).cast("B", (2, 32, 32, 3)), "read-only"),
        ([0] * 6144, "found list, wanted an array with the buffer protocol or DLPack"),
        (Producer(np.zeros((2, 32, 32, 3), np.uint8), (2, 0)), r"DLPack device \(2, 0\), wanted host memory"),
    ],
)  # fmt: skip
def test_a_wrong_out_is_refused(pipe: Pipeline, out: Any, message: str) -> None:
    codes = pipe.encode(pictures())
    with pytest.raises(ShapeError, match=message):
        pipe.decode(codes, out=out)
    with pytest.raises(ShapeError, match=message):
        pipe.decode(codes, out=out, tiles=True)


def test_a_wrong_out_of_codes_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(ShapeError, match=r"encode: out: found int32 \(2, \d+, \d+\), wanted int64"):
        pipe.encode(pictures(), out=pipe.encode(pictures()).astype(np.int32))


def test_out_may_not_overlap_what_is_read() -> None:
    memory = np.zeros(64, dtype=np.int64)
    with pytest.raises(ShapeError, match="overlaps"):
        result_array(memory[:8], (8,), np.int64, name="encode", source=memory[4:])
    assert result_array(memory[:8], (8,), np.int64, name="encode", source=memory[8:]).ctypes.data == memory.ctypes.data


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, requires_grad=True), "images: Tensor can't be read as it lies"),
        (torch.zeros(2, dtype=torch.bfloat16), "images: Tensor can't be read as it lies"),
        (Producer(np.zeros(2), (2, 1)), r"images: found an array on DLPack device \(2, 1\), wanted host memory"),
    ],
)
def test_what_cannot_be_read_is_said(source: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        host_array(source, "images")


def test_arrays_of_every_kind_are_shared() -> None:
    numbers = array.array("q", range(6))
    assert host_array(numbers).ctypes.data == numbers.buffer_info()[0]
    assert host_array([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert host_array(np.int64(3)).shape == ()
    assert host_array(torch.tensor(3)).shape == ()


def test_conditions_come_by_dlpack(pipe: Pipeline) -> None:
    codes = np.array([[3], [1]])
    wanted = pipe.generate(condition_codes=codes, seed=4)
    found = pipe.generate(condition_codes=Producer(codes), seed=4)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    kept = np.where(np.arange(wanted.codes[0].size).reshape(wanted.codes[0].shape) < 20, wanted.codes[0], -1)
    again = pipe.generate(condition_codes=torch.from_numpy(codes[:1]), kept_codes=Producer(kept), seed=5)
    assert (again.codes[0][kept >= 0] == kept[kept >= 0]).all()
    np.testing.assert_array_equal(pipe.encode_condition(class_id=torch.tensor([2, 0])), [[2], [0]])
