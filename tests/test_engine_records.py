"""What a bundle remembers of its engines: only one that fits is used, and for any other the reason is said."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from trt_vqgan import engine_records
from trt_vqgan.engine_records import (
    EngineKey,
    EngineRecord,
    Profile,
    ShapeRange,
    choose_engine,
    read_engine,
    read_engine_records,
    remove_unrecorded,
    store_engine,
)
from trt_vqgan.errors import EngineMismatchError

PROFILE = Profile(purpose="decode", shapes={"x": ShapeRange(minimum=(1, 1, 8), optimum=(8, 1, 8), maximum=(64, 1, 8))})
KEY = EngineKey(
    graph="decoder",
    graph_sha256="a" * 64,
    package="tensorrt_rtx",
    version="1.7.1",
    targets=("sm80", "sm86"),
    profiles=(PROFILE,),
)
HERE = {"graph": "decoder", "graph_sha256": "a" * 64, "package": "tensorrt_rtx", "version": "1.7.1", "target": "sm86"}


def store(folder: Path, data: bytes = b"engine", **changes: Any) -> EngineRecord:
    key = dataclasses.replace(KEY, **changes)
    return store_engine(folder, key, data, precisions={"Half": 3}, made_by="0.1")


def engine_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "engines").glob("*.engine")}


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    assert read_engine_records(tmp_path) == ()
    record = store(tmp_path)
    other = store(tmp_path, b"other", graph="segment_00")
    assert read_engine_records(tmp_path) == (record, other)
    assert choose_engine(read_engine_records(tmp_path), **HERE) == record
    assert read_engine(tmp_path, record) == b"engine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "encoder"}, "there is no engine of encoder; run `trt-vqgan build BUNDLE --target sm86`"),
        ({"graph_sha256": "b" * 64}, "built from another graph or other weights"),
        ({"version": "1.8.0"}, r"built by TensorRT-RTX 1\.7\.1, TensorRT-RTX 1\.8\.0 is here"),
        ({"package": "tensorrt", "version": "11.4"}, r"built by TensorRT-RTX 1\.7\.1, TensorRT 11\.4 is here"),
        ({"target": "sm90"}, "built for sm80, sm86, not for sm90"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    store(tmp_path)
    with pytest.raises(EngineMismatchError, match=message):
        choose_engine(read_engine_records(tmp_path), **(HERE | changes))


def test_engines_of_two_models_in_a_folder_stay_apart(tmp_path: Path) -> None:
    first, second = store(tmp_path), store(tmp_path, b"second", graph_sha256="b" * 64)
    records = read_engine_records(tmp_path)
    assert choose_engine(records, **HERE) == first
    assert choose_engine(records, **(HERE | {"graph_sha256": "b" * 64})) == second


def test_a_new_engine_takes_the_place_of_those_that_it_serves_for(tmp_path: Path) -> None:
    old = store(tmp_path, version="1.6.0")
    narrow = store(tmp_path, targets=("sm86",))
    foreign = store(tmp_path, targets=("sm120",))
    full = store(tmp_path, package="tensorrt", version="11.4")
    new = store(tmp_path)
    remaining = read_engine_records(tmp_path)
    assert len(remaining) == 3
    assert all(record in remaining for record in (new, foreign, full))
    assert engine_files(tmp_path) == {Path(record.key.file).name for record in (new, foreign, full)}
    assert old.key.file != new.key.file != narrow.key.file


@pytest.mark.parametrize("field", ["graph", "graph_sha256", "package", "version", "targets", "profiles"])
def test_everything_that_an_engine_depends_on_is_in_its_name(field: str) -> None:
    other = {"targets": ("sm80",), "profiles": (PROFILE, PROFILE)}.get(field, "other")
    assert dataclasses.replace(KEY, **{field: other}).file != KEY.file


@pytest.mark.parametrize("damage", [b"", b"engine!", b"Engine"])
def test_a_changed_engine_is_refused(tmp_path: Path, damage: bytes) -> None:
    record = store(tmp_path)
    (tmp_path / record.key.file).write_bytes(damage)
    with pytest.raises(EngineMismatchError, match=f"has {len(damage)} bytes that are not those that were built"):
        read_engine(tmp_path, record)
    (tmp_path / record.key.file).unlink()
    with pytest.raises(EngineMismatchError, match="can't be read"):
        read_engine(tmp_path, record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read"),
        ("[]", "wanted an object"),
        ('{"engines": [], "schema": 2}', "schema is 2"),
        ('{"engines": [], "extra": 1}', "unknown key 'extra'"),
    ],
)
def test_wrong_records_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / engine_records.RECORDS_NAME).write_text(text)
    with pytest.raises(EngineMismatchError, match=message):
        read_engine_records(tmp_path)


def test_a_record_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / engine_records.RECORDS_NAME
    data = json.loads(path.read_text())
    data["engines"][0]["key"]["graph"] = "../decoder"
    path.write_text(json.dumps(data))
    with pytest.raises(EngineMismatchError, match=r"names a graph '\.\./decoder'"):
        read_engine_records(tmp_path)


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    record = store(tmp_path)
    folder = tmp_path / "engines"
    dead = 2**22 + 1  # above the largest process number of Linux
    (folder / f".trt-vqgan.{dead}.0.tmp").write_bytes(b"half an engine")
    (folder / f".trt-vqgan.{os.getpid()}.0.tmp").write_bytes(b"being written")
    (folder / "decoder.0123456789abcdef.engine").write_bytes(b"written, but not recorded")
    (folder / "timing.cache").write_bytes(b"")
    assert len(remove_unrecorded(tmp_path)) == 2
    kept = {path.name for path in folder.iterdir()}
    assert kept == {
        Path(record.key.file).name,
        "engines.json",
        f".trt-vqgan.{os.getpid()}.0.tmp",
        "timing.cache",
    }


def test_a_record_is_written_after_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the process ends between the two."""

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    first = store(tmp_path, graph="encoder")
    monkeypatch.setattr(engine_records, "write_engine_records", killed)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path)
    assert read_engine_records(tmp_path) == (first,)
    assert len(engine_files(tmp_path)) == 2
    assert remove_unrecorded(tmp_path) == [Path(KEY.file).name]
