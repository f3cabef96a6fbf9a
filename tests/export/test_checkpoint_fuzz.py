"""The readers of checkpoints: whatever a file holds gives tensors or one CheckpointError, and nothing is executed."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.safetensors_file import read_safetensors_file
from trt_vqgan.export.stored_tensor import StoredTensor
from trt_vqgan.export.torch_file import read_torch_file

SHORT, LONG = 150, 20_000  # of each of three kinds of file

STATE = {"a": torch.arange(24.0).reshape(4, 6).t(), "b": torch.ones(3, dtype=torch.int64), "c": torch.zeros(2).half()}


def saved(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, buffer, **options)
    return buffer.getvalue()


ZIP, LEGACY = saved(), saved(_use_new_zipfile_serialization=False)
with zipfile.ZipFile(io.BytesIO(ZIP)) as _archive:
    ENTRIES = {info.filename: _archive.read(info) for info in _archive.infolist()}
PICKLE = next(name for name in ENTRIES if name.endswith("data.pkl"))
HEADER = {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [24 * i, 24 * i + 24]} for i, name in enumerate("ab")}

# pieces that mean something to a reader: opcodes, calls, sizes beyond everything
PIECES = st.sampled_from(
    [b"(", b"0", b"2", b"N", b"}", b"]", b")", b"t", b"R", b"b", b"Q", b".", b"\x80\x02", b"\x85", b"\x86", b"\x87",
     b"\x93", b"\x94", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"q\x00",
     b"h\x00", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\x04\x00\x00\x00evil",
     b"\x00" * 8, b"\xff" * 8]
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are flipped, cut, doubled, or have pieces put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "double", "end"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and found:
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at : at + draw(st.integers(1, 16))]
        elif kind == "insert":
            found[at:at] = draw(PIECES | st.binary(max_size=6))
        elif kind == "double":
            found[at:at] = found[at : at + draw(st.integers(1, 40))]
        elif kind == "end" and draw(st.integers(0, 3)) == 0:
            del found[at:]
    return bytes(found)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A damaged archive, or a whole one around a damaged pickle or storage, whose checksums fit."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed(ZIP))
    name = PICKLE if draw(st.integers(0, 3)) else draw(st.sampled_from(sorted(ENTRIES)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in ENTRIES.items():
            archive.writestr(entry, draw(changed(content)) if entry == name else content)
    return buffer.getvalue()


json_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=4)
)


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """A header with other values, or other bytes, and data of some length."""
    header: dict[str, Any] = {name: dict(entry) for name, entry in HEADER.items()}
    if draw(st.booleans()):
        entry = header[draw(st.sampled_from("ab"))]
        key = draw(st.sampled_from(["dtype", "shape", "data_offsets"]) | st.text(max_size=4))
        entry[key] = draw(
            json_values
            | st.sampled_from(["F16", "BF16", "I64", "F8_E4M3", "X"])
            | st.lists(st.integers(-1, 50) | st.sampled_from([1 << 40, 1 << 63, 1 << 70]), max_size=3)
        )
    else:
        header[draw(st.text(max_size=3))] = draw(json_values)
    text = json.dumps(header).encode()
    if draw(st.booleans()):
        text = draw(changed(text))
    length = draw(st.sampled_from([len(text)] * 6 + [max(0, len(text) - 1), len(text) + 60, 1 << 62, 0]))
    return struct.pack("<Q", length) + text + bytes(draw(st.sampled_from([48, 48, 48, 47, 0, 100])))


def check(content: bytes, suffix: str, folder: Path) -> int:
    """Read a file and all its tensors; return how many there were, or -1 for the one error."""
    path = folder / f"fuzzed{suffix}"
    path.write_bytes(content)
    read = read_safetensors_file if suffix == ".safetensors" else read_torch_file
    refusal = ""
    try:
        tensors = [entry for entry in read(path).tensors.values() if isinstance(entry, StoredTensor)]
        for tensor in tensors:
            tensor.read_integers() if tensor.is_integer else tensor.read()
    except CheckpointError as error:
        refusal = str(error)
    if refusal:
        assert path.name in refusal
        return -1
    return len(tensors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=SHORT, deadline=None)
@given(content=zips())
def test_archives(folder: Path, content: bytes) -> None:
    check(content, ".ckpt", folder)


@settings(max_examples=SHORT, deadline=None)
@given(content=changed(LEGACY))
def test_legacy_files(folder: Path, content: bytes) -> None:
    check(content, ".ckpt", folder)


@settings(max_examples=SHORT, deadline=None)
@given(content=safetensors())
def test_safetensors(folder: Path, content: bytes) -> None:
    check(content, ".safetensors", folder)


def test_what_is_changed_is_read_whole(folder: Path) -> None:
    """The files that the damage is done to hold tensors; without that, errors would say nothing."""
    assert check(ZIP, ".ckpt", folder) == check(LEGACY, ".ckpt", folder) == 3
    text = json.dumps(HEADER).encode()
    assert check(struct.pack("<Q", len(text)) + text + bytes(48), ".safetensors", folder) == 2
    assert check(ZIP[:-30], ".ckpt", folder) == -1


@pytest.mark.slow
@settings(max_examples=LONG, deadline=None)
@given(content=zips())
def test_many_archives(folder: Path, content: bytes) -> None:
    check(content, ".ckpt", folder)


@pytest.mark.slow
@settings(max_examples=LONG, deadline=None)
@given(content=changed(LEGACY))
def test_many_legacy_files(folder: Path, content: bytes) -> None:
    check(content, ".ckpt", folder)


@pytest.mark.slow
@settings(max_examples=LONG, deadline=None)
@given(content=safetensors())
def test_many_safetensors(folder: Path, content: bytes) -> None:
    check(content, ".safetensors", folder)
