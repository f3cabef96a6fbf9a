"""Folders that are either whole or not there, whenever the process that writes them ends.

Windows has neither an exchange of two paths nor locks on folders. There a folder is replaced by two renames: killed
between the two, the older one waits in a hidden folder until the next write puts it back. And what killed writers have
left half-written stays, hidden, since nothing tells it from a folder that is being written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

AT_FDCWD, RENAME_EXCHANGE = -100, 2

SETTLED_SECONDS = 60.0
"""A folder younger than this may be one whose writer has not locked it yet."""


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Open a new folder beside ``target`` for writing, which becomes ``target`` when the block ends well.

    A folder that is there already goes away only once the new one stands in its place. On any exception the new one is
    removed. What writers that were killed have left is removed first.

    Raises
    ------
    OSError : the folder can't be made or put into its place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_left_folders(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        with _locked(folder):
            yield folder
            folder.chmod(0o755)
            _put_into_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after an exchange, the older one


def remove_left_folders(target: Path) -> None:
    """Remove what writers of ``target`` that were killed have left, and put back an older folder that one had moved.

    Folders whose writer still runs, on whatever machine, are locked and stay.
    """
    for path in sorted(target.parent.glob(f".{_escaped(target.name)}.*.partial")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > SETTLED_SECONDS and _is_unlocked(path):
                shutil.rmtree(path, ignore_errors=True)
    for path in sorted(target.parent.glob(f".{_escaped(target.name)}.*.old")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > SETTLED_SECONDS:
                if not target.exists():
                    (path / target.name).rename(target)
                shutil.rmtree(path, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; return whether the system and the file system can.

    Source: renameat2(2) of Linux, which other systems lack.
    """
    if not HAS_LOCKS:
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), ctypes.c_uint(RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _put_into_place(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
    elif not exchange(folder, target):
        _rename_twice(folder, target)


def _rename_twice(folder: Path, target: Path) -> None:
    """Move the older folder away and the new one in; killed between the two, the older one waits in a hidden folder."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    try:
        folder.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder that ends with this process, however that ends; none where folders have no locks."""
    if not HAS_LOCKS:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is ever removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_unlocked(folder: Path) -> bool:
    """Return whether nobody writes a folder for certain; OSError where the file system has no locks."""
    if not HAS_LOCKS:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _escaped(name: str) -> str:
    """Return a name as `Path.glob` takes it literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
