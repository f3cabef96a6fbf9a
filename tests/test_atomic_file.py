"""Files are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_vqgan.atomic_file import replacing, write_bytes


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_bytes() == b"old"
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_errors_name_the_target(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"")
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a" / "b", b"")
    assert str(tmp_path / "a") in str(caught.value)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_bytes(tmp_path, b"")
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "c"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_are_not_replaced() -> None:
    write_bytes("/dev/null", b"content")
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_name() -> None:
    with pytest.raises(OSError, match="/dev/full"):
        write_bytes("/dev/full", b"content")


def test_long_names(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("a" * 255), b"content")
