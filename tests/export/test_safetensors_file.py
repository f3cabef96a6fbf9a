"""Files of safetensors, against the library that defines them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.safetensors_file import read_safetensors_file
from trt_vqgan.export.stored_tensor import StoredTensor


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    """Write a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def test_values_equal_the_librarys(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {f"t{i}": torch.arange(7).to(dtype) for i, dtype in enumerate(dtypes)}
    tensors["odd"] = torch.randn(3, 0, 2)
    safetensors_torch.save_file(tensors, path, metadata={"format": "pt"})
    stored = read_safetensors_file(path)
    assert set(stored.tensors) == set(tensors)
    for key, wanted in tensors.items():
        tensor = stored.tensors[key]
        assert isinstance(tensor, StoredTensor)
        np.testing.assert_array_equal(tensor.read(), wanted.float().numpy())


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN: list[Any] = [
    [],
    {"a": 3},
    {"a": {**GOOD, "shape": [3]}},
    {"a": {**GOOD, "shape": [-2]}},
    {"a": {**GOOD, "shape": [2.0]}},
    {"a": {**GOOD, "shape": None}},
    {"a": {**GOOD, "data_offsets": [0, 9]}},
    {"a": {**GOOD, "data_offsets": [4, 12]}},
    {"a": {**GOOD, "data_offsets": [8, 0]}},
    {"a": {**GOOD, "data_offsets": [0]}},
    {"a": {**GOOD, "shape": [10**10], "data_offsets": [0, 4 * 10**10]}},
    b"{" * 100_000,
    b"not json",
    b"\xff\xfe\x00\x00",
]


@pytest.mark.parametrize("header", BROKEN)
def test_broken_headers(tmp_path: Path, header: object) -> None:
    path = tmp_path / "a.safetensors"
    write(path, header, b"\0" * 8)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_safetensors_file(path)


@pytest.mark.parametrize("length", [0, 1, 1000, 10**10, 2**64 - 1])
def test_wrong_header_lengths(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"a": GOOD}, b"\0" * 8, length)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_safetensors_file(path)


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"a": GOOD}, b"\0" * 8)
    data = path.read_bytes()
    assert set(read_safetensors_file(path).tensors) == {"a"}
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            read_safetensors_file(path)
