"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_SERIAL = itertools.count()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing, and rename it to ``path`` when the block ends well.

    On any exception, KeyboardInterrupt included, the temporary file is removed and ``path`` stays what it was. Missing
    parent folders are made. A device or a pipe is written to directly: renaming over it would replace it by a file.

    Raises
    ------
    OSError : the file can't be written; its ``filename`` is ``path``.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(21, "is a folder, wanted a file name", str(path))
    # The name is short whatever the target's: a long one plus a suffix could exceed what the file system takes.
    temporary = path.with_name(f".trt-vqgan.{os.getpid()}.{next(_SERIAL)}.tmp")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            place = error.filename or path.parent
            raise NotADirectoryError(20, f"is no folder, wanted one to write {path.name} into", str(place)) from None
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or error.filename == str(temporary):
            error.filename = str(path)
            error.filename2 = None
        raise
    finally:
        with contextlib.suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(content)
