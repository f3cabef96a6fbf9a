"""Which TensorRT engines a bundle has, and what built them: ``engines/engines.json``, read and written strictly.

Engines are made from a bundle and are no part of it: they lie in its folder, but its manifest and its id don't change
with them. Each is recorded with the hash of the graph it was built from, the TensorRT that built it, the GPUs it is for
and its profiles. Only an engine that fits all of these is used; for any other the reason is said.

An engine file is written whole, then recorded; a record never names a file that isn't there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import replacing, write_bytes
from trt_vqgan.errors import EngineMismatchError, SpecError
from trt_vqgan.spec import from_dict
from trt_vqgan.tensorrt_package import TITLES

ENGINES_FOLDER = "engines"
RECORDS_NAME = f"{ENGINES_FOLDER}/engines.json"
RECORDS_SCHEMA = 1
BUILD_AGAIN = "run `trt-vqgan build` again"

_GRAPH = re.compile(r"[a-z0-9_]+")  # part of a file's name
_TEMPORARY = re.compile(r"\.trt-vqgan\.(\d+)\.\d+\.tmp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """Shapes of one input: smallest, the one to be fastest at, largest."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """An optimization profile: what it is for, and the shapes of each input."""

    purpose: str
    shapes: dict[str, ShapeRange]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an engine was, or would be, built from and for.

    Attributes
    ----------
    graph : its name in the manifest: "decoder", "segment_00" …
    graph_sha256 : hash of the graph with its weights.
    package, version : the TensorRT.
    targets : GPU architectures, as "sm86"; sorted.
    profiles : in the order of their indices.
    """

    graph: str
    graph_sha256: str
    package: str
    version: str
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]

    @property
    def file(self) -> str:
        """Name of the engine's file in the bundle."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return f"{ENGINES_FOLDER}/{self.graph}.{hashlib.sha256(text.encode()).hexdigest()[:16]}.engine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """An engine of a bundle.

    Attributes
    ----------
    key : what it was built from and for.
    sha256, size_bytes : of its file, ``key.file``.
    precisions : how many of its layers compute on each dtype, as TensorRT names them; empty where it doesn't say.
    made_by : version of this package.
    """

    key: EngineKey
    sha256: str
    size_bytes: int
    precisions: dict[str, int]
    made_by: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Records:
    engines: tuple[EngineRecord, ...]
    schema: int = RECORDS_SCHEMA


def read_engine_records(folder: Path) -> tuple[EngineRecord, ...]:
    """Return the engines of the bundle in ``folder``; none where none were built.

    Raises
    ------
    EngineMismatchError : the records can't be read or are of another schema.
    """
    path = folder / RECORDS_NAME
    if not path.is_file():
        return ()
    again = f"delete {path.parent} and {BUILD_AGAIN}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        records: _Records = from_dict(_Records, data, str(path))
    except (OSError, ValueError, RecursionError, SpecError) as error:
        raise EngineMismatchError(f"{path}: can't be read ({error}); {again}") from None
    if records.schema != RECORDS_SCHEMA:
        raise EngineMismatchError(f"{path}: schema is {records.schema}, this version reads {RECORDS_SCHEMA}; {again}")
    for record in records.engines:
        if not _GRAPH.fullmatch(record.key.graph):
            raise EngineMismatchError(f"{path}: names a graph {record.key.graph!r}; {again}")
    return records.engines


def store_engine(
    folder: Path, key: EngineKey, engine: Any, *, precisions: dict[str, int], made_by: str
) -> EngineRecord:
    """Write an engine's file, then record it; engines that it takes the place of are forgotten and deleted.

    Parameters
    ----------
    engine : anything with the buffer protocol.
    """
    digest, size_bytes = hashlib.sha256(engine).hexdigest(), memoryview(engine).nbytes
    with replacing(folder / key.file) as file:
        file.write(engine)
    record = EngineRecord(key=key, sha256=digest, size_bytes=size_bytes, precisions=precisions, made_by=made_by)
    known = read_engine_records(folder)
    kept = [other for other in known if not _replaces(key, other.key)]
    write_engine_records(folder, [*kept, record])
    remaining = {other.key.file for other in [*kept, record]}
    for other in known:
        if other.key.file not in remaining:
            (folder / other.key.file).unlink(missing_ok=True)
    return record


def write_engine_records(folder: Path, records: Sequence[EngineRecord]) -> None:
    """Replace the records of the bundle in ``folder``, whole or not at all."""
    ordered = sorted(records, key=lambda record: record.key.file)
    text = json.dumps(dataclasses.asdict(_Records(engines=tuple(ordered))), indent=1, sort_keys=True) + "\n"
    write_bytes(folder / RECORDS_NAME, text.encode())


def remove_unrecorded(folder: Path) -> list[str]:
    """Delete what a build that was killed has left in the bundle's engines; return the names.

    Temporary files of processes that still run stay.
    """
    recorded = {record.key.file for record in read_engine_records(folder)}
    removed = []
    for path in sorted((folder / ENGINES_FOLDER).glob("*")):
        temporary = _TEMPORARY.fullmatch(path.name)
        left = not _runs(int(temporary[1])) if temporary else path.suffix == ".engine"
        if left and f"{ENGINES_FOLDER}/{path.name}" not in recorded:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def choose_engine(
    records: Sequence[EngineRecord], *, graph: str, graph_sha256: str, package: str, version: str, target: str
) -> EngineRecord:
    """Return the engine of a graph that this TensorRT can run on this GPU.

    Parameters
    ----------
    target : the GPU's architecture, as "sm86".

    Raises
    ------
    EngineMismatchError : none fits; says what those that exist were built for.
    """
    build = f"run `trt-vqgan build BUNDLE --target {target}`"
    found = [record.key for record in records if record.key.graph == graph]
    if not found:
        raise EngineMismatchError(f"there is no engine of {graph}; {build}")

    def fitting(
        keys: list[EngineKey], fits: Callable[[EngineKey], bool], built: Callable[[EngineKey], str]
    ) -> list[EngineKey]:
        chosen = [key for key in keys if fits(key)]
        if not chosen:
            built_for = "; or ".join(dict.fromkeys(built(key) for key in keys))
            raise EngineMismatchError(f"the engine of {graph} was built {built_for}; {build}")
        return chosen

    here = f"{TITLES[package]} {version} is here"
    found = fitting(
        found, lambda key: key.graph_sha256 == graph_sha256, lambda key: "from another graph or other weights"
    )
    found = fitting(
        found,
        lambda key: (key.package, key.version) == (package, version),
        lambda key: f"by {TITLES.get(key.package, key.package)} {key.version}, {here}",
    )
    found = fitting(
        found, lambda key: target in key.targets, lambda key: f"for {', '.join(key.targets)}, not for {target}"
    )
    return next(record for record in records if record.key == found[-1])


def read_engine(folder: Path, record: EngineRecord) -> bytes:
    """Return the bytes of an engine.

    Raises
    ------
    EngineMismatchError : its file is missing or was changed.
    """
    path = folder / record.key.file
    try:
        engine = path.read_bytes()
    except OSError as error:
        raise EngineMismatchError(f"{path}: can't be read ({error.strerror}); {BUILD_AGAIN}") from None
    if hashlib.sha256(engine).hexdigest() != record.sha256:
        raise EngineMismatchError(
            f"{path}: has {len(engine)} bytes that are not those that were built "
            f"({record.size_bytes} bytes, sha256 {record.sha256[:12]}…); {BUILD_AGAIN}"
        )
    return engine


def _replaces(new: EngineKey, old: EngineKey) -> bool:
    """Whether an engine leaves nothing that an older one would be used for."""
    same = (new.graph, new.graph_sha256, new.package) == (old.graph, old.graph_sha256, old.package)
    return same and set(old.targets) <= set(new.targets)


def _runs(process: int) -> bool:
    """Whether a process of this number runs; taken for granted where asking would end it."""
    if sys.platform == "win32":
        return True
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(process, 0)
        except PermissionError:
            return True
        return True
    return False
