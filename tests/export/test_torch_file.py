"""Containers of torch.save: damaged, truncated and lying files give one clear error and nothing else."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.stored_tensor import StoredTensor
from trt_vqgan.export.torch_file import Unreadable, read_torch_file


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def rewrite(source: Path, target: Path, changes: dict[str, bytes | None], *, compressed: str = "") -> None:
    """Copy a zip archive, with some entries (by the end of their names) replaced, dropped or compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data: bytes | None = old.read(info)
            for name, change in changes.items():
                if info.filename.endswith(name):
                    data = change
            if data is not None:
                packed = bool(compressed) and info.filename.endswith(compressed)
                new.writestr(info.filename, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small checkpoint with two tensors and optimizer state."""
    path = tmp_path / "last.ckpt"
    state = {"a": torch.arange(1000.0), "b": torch.ones(3, 4, dtype=torch.int64)}
    torch.save({"state_dict": state, "optimizer_states": [torch.zeros(500)]}, path)
    return path


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """The same in the container of torch before 1.6, with two tensors that share a storage."""
    path = tmp_path / "legacy.ckpt"
    base = torch.arange(1000.0)
    content = {"state_dict": {"a": base, "c": base[10:20]}, "optimizer_states": [torch.zeros(500)]}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def read_all(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read every tensor of a file."""
    stored = read_torch_file(path)
    return {key: value.read() for key, value in stored.tensors.items() if isinstance(value, StoredTensor)}


def test_both_containers(saved: Path, legacy: Path) -> None:
    stored = read_torch_file(saved)
    assert stored.others == ("optimizer_states",)
    np.testing.assert_array_equal(read_all(saved)["a"], np.arange(1000, dtype=np.float32))
    ones = stored.tensors["b"]
    assert isinstance(ones, StoredTensor)
    np.testing.assert_array_equal(ones.read_integers(), np.ones((3, 4), np.int64))
    np.testing.assert_array_equal(read_all(legacy)["c"], np.arange(10, 20, dtype=np.float32))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("where", ["beside", "inside", "top"])
def test_pickled_code_does_not_run(tmp_path: Path, new: bool, where: str) -> None:
    target, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    state: dict[str, Any] = {"a": torch.ones(3)}
    content: Any = {"state_dict": state}
    if where == "beside":
        content["callbacks"] = [Evil(target)]
    elif where == "inside":
        state["b"] = Evil(target)
    else:
        content = Evil(target)
    torch.save(content, path, _use_new_zipfile_serialization=new)
    if where == "top":
        with pytest.raises(CheckpointError, match="whole pickled object"):
            read_torch_file(path)
    else:
        stored = read_torch_file(path)
        np.testing.assert_array_equal(read_all(path)["a"], np.ones(3))
        assert where == "beside" or isinstance(stored.tensors["b"], Unreadable)
    assert not target.exists()


def test_bare_evil_pickles(tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(Evil(target), protocol))
        with pytest.raises(CheckpointError):
            read_torch_file(path)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["saved", "legacy"])
def test_truncated_at_any_byte(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    data = request.getfixturevalue(kind).read_bytes()
    cuts = {0, 1, 2, 7, 8, 15, 16, len(data) - 1, len(data) - 2, *random.Random(0).sample(range(len(data)), 150)}
    path = tmp_path / "cut.ckpt"
    for cut in cuts:
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
            read_torch_file(path)


@pytest.mark.parametrize("kind", ["saved", "legacy"])
def test_flipped_bytes_give_values_or_one_error(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    data = request.getfixturevalue(kind).read_bytes()
    chance = random.Random(1)
    path = tmp_path / "flipped.ckpt"
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 4])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            read_all(path)


def test_claims_beyond_the_file(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        data = archive.read("last/data.pkl")
    thousand = b"M" + struct.pack("<H", 1000)
    assert data.count(thousand) == 2  # elements of the storage, and the tensor's shape
    huge = b"\x8a\x08" + struct.pack("<q", 10**10)
    path = tmp_path / "claim.ckpt"
    rewrite(saved, path, {"data.pkl": data.replace(thousand, huge)})
    with pytest.raises(CheckpointError, match="storage 0 has 4000 bytes, a tensor claims 10000000000"):
        read_torch_file(path)
    shape_only = data.replace(thousand + b"\x85", huge + b"\x85")
    stride_zero = shape_only.replace(b"K\x01\x85", b"K\x00\x85")
    assert len({data, shape_only, stride_zero}) == 3
    for changed in (shape_only, stride_zero):
        rewrite(saved, path, {"data.pkl": changed})
        tensor = read_torch_file(path).tensors["a"]
        assert isinstance(tensor, Unreadable)
        assert "doesn't fit its storage of 1000 elements" in tensor.reason


def test_short_storage(saved: Path, tmp_path: Path) -> None:
    rewrite(saved, tmp_path / "short.ckpt", {"data/0": b"\0" * 3996})
    with pytest.raises(CheckpointError, match="storage 0 has 3996 bytes"):
        read_torch_file(tmp_path / "short.ckpt")


def test_missing_storage(saved: Path, tmp_path: Path) -> None:
    rewrite(saved, tmp_path / "gone.ckpt", {"data/0": None})
    with pytest.raises(CheckpointError, match=r"last/data/0 is missing"):
        read_torch_file(tmp_path / "gone.ckpt")
    # Optimizer state that is damaged harms nothing: it isn't read.
    rewrite(saved, tmp_path / "gone.ckpt", {"data/2": None})
    assert read_all(tmp_path / "gone.ckpt")["a"][999] == 999


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
def test_compressed_entries(saved: Path, tmp_path: Path, entry: str) -> None:
    rewrite(saved, tmp_path / "packed.ckpt", {}, compressed=entry)
    with pytest.raises(CheckpointError, match=f"{entry} is compressed"):
        read_torch_file(tmp_path / "packed.ckpt")


def test_a_compressed_bomb_is_not_unpacked(saved: Path, tmp_path: Path) -> None:
    rewrite(saved, tmp_path / "bomb.ckpt", {"data.pkl": b"\0" * 50_000_000}, compressed="data.pkl")
    assert (tmp_path / "bomb.ckpt").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_file(tmp_path / "bomb.ckpt")


def test_oversized_pickle(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_vqgan.export.torch_file.MAX_PICKLE_BYTES", 100)
    with pytest.raises(CheckpointError, match="at most 100 are read"):
        read_torch_file(saved)


def test_big_endian(saved: Path, tmp_path: Path) -> None:
    rewrite(saved, tmp_path / "big.ckpt", {"byteorder": b"big"})
    with pytest.raises(CheckpointError, match="byte order"):
        read_torch_file(tmp_path / "big.ckpt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"GARBAGE!" * 10, "begins with"),
        (b"PK\x03\x04 and nothing else", "can't be read"),
        (pickle.dumps({"state_dict": {}}, 2), "magic number"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(path)


def test_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="found 0 entries"):
        read_torch_file(path)


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "script.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/version"):
            archive.writestr(name, "x")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_torch_file(path)


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, {"state_dict": {1: 2}}, [1, 2], torch.nn.Linear(2, 2)])
def test_no_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"odd\.ckpt"):
        read_torch_file(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        read_torch_file(tmp_path / "nowhere.ckpt")


def test_any_root_folder_and_zip64(tmp_path: Path) -> None:
    """torch writes zip64 entries for large files; here one is forced, under a folder of another name."""
    torch.save({"state_dict": {"a": torch.arange(5.0)}}, tmp_path / "plain.ckpt")
    path = tmp_path / "big.ckpt"
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            name = "another name/" + info.filename.partition("/")[2]
            with new.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                entry.write(old.read(info))
    np.testing.assert_array_equal(read_all(path)["a"], np.arange(5))
