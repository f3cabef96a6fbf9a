"""A job's folder: which shards are finished, and how one is put there whole or not at all.

``job.json``
    what decides the pictures.
``shards/00012.npz``
    codes (n, h, w), pictures int64 (n,) and, of a class model, class_ids int64 (n,). Written last: a shard is finished
    when it is there.
``pictures/00012/SEED-PICTURE.png``
    the shard's pictures.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import types
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.errors import JobError
from trt_vqgan.runtime.jobs.job import Job, begin
from trt_vqgan.runtime.jobs.making import Int64Array, MadeShard
from trt_vqgan.runtime.jobs.shards import Shard

LOCK_NAME = ".lock"


class JobFolder:
    """The folder of one job, held by one process at a time; a context manager.

    Raises
    ------
    JobError : the folder holds another job or other files, or another process works on it.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self._lock: int | None = None

    def __enter__(self) -> Self:
        if self.folder.exists() and not self.folder.is_dir():
            raise JobError(f"{self.folder}: is a file, wanted a folder for the job's shards")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / LOCK_NAME)
        try:
            begin(self.folder, self.job)
            self._clear_away()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._release()

    def missing(self) -> list[Shard]:
        """Return the shards that aren't finished, in order."""
        return [shard for shard in self.job.shards if not self._codes_path(shard.index).is_file()]

    def put(self, shard: Shard, made: MadeShard) -> None:
        """Put a shard there; one that is finished is left as it is.

        Raises
        ------
        JobError : it isn't the shard's pictures.
        """
        first = self.job.first_picture + shard.start
        if made.pictures.tolist() != list(range(first, first + shard.count)):
            raise JobError(
                f"{self.folder}: shard {shard.index} came with pictures {made.pictures.tolist()[:3]} …, wanted {first} "
                f"to {first + shard.count - 1}; please report it"
            )
        path = self._codes_path(shard.index)
        if path.is_file():
            return
        if not self.job.codes_only:
            self._put_pictures(shard, made)
        write_bytes(path, _codes_file(made))

    def _put_pictures(self, shard: Shard, made: MadeShard) -> None:
        target = self.pictures_folder(shard.index)
        temporary = target.with_name(f".{target.name}.tmp")
        for folder in (temporary, target):  # of a shard that was broken off: its codes are not there
            if folder.exists():
                shutil.rmtree(folder)
        temporary.mkdir(parents=True)
        for name, content in made.pngs:
            (temporary / name).write_bytes(content)
        temporary.replace(target)

    def pictures_folder(self, index: int) -> Path:
        """Return the folder of a shard's pictures."""
        return self.folder / "pictures" / f"{index:05d}"

    def codes(self, shard: Shard) -> dict[str, Int64Array]:
        """Return the arrays of a finished shard by name, as int64.

        Raises
        ------
        JobError : its file can't be read.
        """
        path = self._codes_path(shard.index)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name].astype(np.int64) for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            raise JobError(
                f"{path}: can't be read as a shard's codes ({error}); remove it, and the job makes the shard again"
            ) from None

    def _codes_path(self, index: int) -> Path:
        return self.folder / "shards" / f"{index:05d}.npz"

    def _clear_away(self) -> None:
        """Remove what a killed process left half-written."""
        for place in ("pictures", "shards"):
            for left in (self.folder / place).glob(".*.tmp"):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # which unlocks it
            self._lock = None


def _codes_file(made: MadeShard) -> bytes:
    top = int(made.codes.max())
    smaller: Any = np.uint16 if top < 1 << 16 else np.uint32
    arrays = {"codes": made.codes.astype(smaller), "pictures": made.pictures}
    if made.class_ids is not None:
        arrays["class_ids"] = made.class_ids
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _locked(path: Path) -> int:
    """Return the descriptor of the file ``path``, locked; the system unlocks it when the process ends, however."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JobError(f"{path.parent}: another process works on this job; wait for it, or end it") from None
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor
