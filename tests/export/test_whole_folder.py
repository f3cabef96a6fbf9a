"""Folders are whole or not there: killed at every point, by an exception, and where paths can't be exchanged."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trt_vqgan.export import whole_folder as module
from trt_vqgan.export.whole_folder import SETTLED_SECONDS, exchange, remove_left_folders, whole_folder

KILLED_AT = {
    "writing": "",
    "before it is put into place": "module._put_into_place = kill",
    "after it is put into place": "module.shutil.rmtree = kill",
    "between two renames": "module.exchange = lambda *paths: False\nPath.rename = once_then_kill",
}


def write_and_be_killed(target: Path, change: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from trt_vqgan.export import whole_folder as module\n"
        "rename, calls = Path.rename, []\n"
        "def kill(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def once_then_kill(path, place):\n"
        "    if calls: kill()\n"
        "    calls.append(place)\n"
        "    return rename(path, place)\n"
        "target = Path(sys.argv[1])\n"
        "with module.whole_folder(target) as folder:\n"
        "    (folder / 'a').write_text('new')\n"
        f"    {'kill()' if not change else 'pass'}\n"
        "    (folder / 'b').write_text('new')\n"
    )
    lines = code.splitlines(keepends=True)
    done = subprocess.run([sys.executable, "-c", "".join([*lines[:10], change + "\n", *lines[10:]]), str(target)])
    assert done.returncode == -signal.SIGKILL


def contents(target: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in target.iterdir()}


def age(folder: Path) -> None:
    for path in folder.glob(".*"):
        os.utime(path, (0, 0))


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed(tmp_path: Path, point: str) -> None:
    target = tmp_path / "bundle"
    with whole_folder(target) as folder:
        (folder / "a").write_text("old")
    write_and_be_killed(target, KILLED_AT[point])
    if point == "between two renames":  # where the file system can't exchange: the next writer puts the old one back
        assert not target.exists()
    else:
        assert contents(target) == ({"a": "old"} if "after" not in point else {"a": "new", "b": "new"})
    left = [path for path in tmp_path.iterdir() if path != target]
    assert left
    assert all(path.name.startswith(".bundle.") for path in left)
    age(tmp_path)
    remove_left_folders(target)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert contents(target)["a"] == ("new" if "after" in point else "old")
    with whole_folder(target) as folder:
        (folder / "c").write_text("newest")
    assert contents(target) == {"c": "newest"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_folders_that_are_being_written_stay(tmp_path: Path) -> None:
    target = tmp_path / "bundle[1]"
    (tmp_path / ".bundle1.x.partial").mkdir()  # what the name would match as a pattern
    with whole_folder(target) as folder:
        young = tmp_path / f".{target.name}.young.partial"
        young.mkdir()
        os.utime(folder, (0, 0))
        (tmp_path / f".{target.name}.old.partial").mkdir()
        os.utime(tmp_path / f".{target.name}.old.partial", (0, 0))
        remove_left_folders(target)
        assert folder.is_dir(), "it is locked by its writer"
        assert young.is_dir(), f"it isn't {SETTLED_SECONDS} s old"
        assert not (tmp_path / f".{target.name}.old.partial").exists()
    assert (tmp_path / ".bundle1.x.partial").is_dir()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_error_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(module, "exchange", lambda *paths: False)
    target = tmp_path / "bundle"
    for content in ("old", "new"):
        with whole_folder(target) as folder:
            (folder / "a").write_text(content)
        assert contents(target) == {"a": content}
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert contents(target) == {"a": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_exchange(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system can't exchange two paths")
    assert (tmp_path / "a" / "b").exists()
    with pytest.raises(FileNotFoundError, match="missing"):
        exchange(tmp_path / "a", tmp_path / "missing")


def test_without_locks_and_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where fcntl can't be imported."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("whole_folder_of_windows", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(windows)
    monkeypatch.setattr(windows.ctypes, "CDLL", lambda *arguments, **options: pytest.fail("there is no renameat2"))
    target = tmp_path / "bundle"
    left = tmp_path / ".bundle.left.partial"
    left.mkdir()
    moved = tmp_path / ".bundle.moved.old"
    (moved / "bundle").mkdir(parents=True)
    age(tmp_path)
    windows.remove_left_folders(target)
    assert target.is_dir(), "what a writer had moved away is put back"
    for content in ("old", "new"):
        with windows.whole_folder(target) as folder:
            (folder / "a").write_text(content)
        assert contents(target) == {"a": content}
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "bundle"]
