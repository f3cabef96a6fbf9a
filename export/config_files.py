"""Which files make up a checkpoint, and its YAML configs as one dict.

Layouts: ``RUN/configs/*-project.yaml`` (merged in name order; ``*-lightning.yaml`` holds trainer settings and is left
out) or ``RUN/configs/model.yaml`` with ``RUN/checkpoints/last.ckpt``; ``config.yaml`` beside ``model.ckpt``; a file of
weights whose YAML lies beside it, in ``../configs`` or wherever the caller says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trt_vqgan.errors import CheckpointError, MissingDependencyError

_WEIGHT_SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
_PREFERRED_WEIGHTS = ("last.ckpt", "model.ckpt")
_PREFERRED_CONFIGS = ("model.yaml", "config.yaml")
_MAX_CONFIG_BYTES = 1 << 20
_MAX_CONFIG_NODES = 100_000


def find_files(path: Path, config: Path | None = None) -> tuple[Path, tuple[Path, ...]]:
    """Return the file of weights and its YAML files, in the order in which they are merged.

    Raises
    ------
    CheckpointError : nothing was found, or several files of which none is preferred.
    """
    if path.is_dir():
        weights = _find_weights(path)
    elif path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise CheckpointError(f"{path} is a YAML; give the file of weights or its folder, and the YAML as config")
        weights = path
    else:
        raise CheckpointError(f"{path} doesn't exist; wanted a run folder, a .ckpt or a .safetensors file")
    if config is not None:
        if config.is_dir():
            return weights, _find_configs([config], weights)
        if not config.is_file():
            raise CheckpointError(f"config {config} doesn't exist")
        return weights, (config,)
    beside = weights.parent
    run = beside.parent if beside.name == "checkpoints" else beside
    return weights, _find_configs(_unique([run / "configs", beside, run]), weights)


def load_config(paths: Iterable[Path]) -> dict[str, Any]:
    """Return the YAML files merged, later files winning: dicts key by key, everything else as a whole.

    Only plain YAML is read: a tag that asks for a Python object is an error, and so is a file whose aliases expand to
    more than 100,000 nodes.

    Raises
    ------
    CheckpointError : a file can't be read, is no YAML or holds no dict.
    MissingDependencyError : PyYAML isn't installed.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        content = _load_yaml(path)
        if content is None:
            continue
        if not isinstance(content, dict):
            raise CheckpointError(f"config {path}: found {type(content).__name__}, wanted a mapping with a key 'model'")
        merged = _merge(merged, content)
    return merged


def _find_weights(folder: Path) -> Path:
    for place in (folder / "checkpoints", folder):
        if not place.is_dir():
            continue
        found = _files(place, _WEIGHT_SUFFIXES)
        for name in _PREFERRED_WEIGHTS:
            if place / name in found:
                return place / name
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{place} holds {len(found)} files of weights ({', '.join(file.name for file in found)}) and no "
                "last.ckpt; give the one you mean as the path"
            )
    raise CheckpointError(f"{folder}: found no file of weights in it or in its checkpoints/, wanted last.ckpt")


def _find_configs(places: list[Path], weights: Path) -> tuple[Path, ...]:
    for place in places:
        if not place.is_dir():
            continue
        found = [file for file in _files(place, (".yaml", ".yml")) if not file.stem.endswith("-lightning")]
        projects = tuple(file for file in found if file.stem.endswith("-project"))
        if projects:
            return projects
        for name in (*_PREFERRED_CONFIGS, f"{weights.stem}.yaml"):
            if place / name in found:
                return (place / name,)
        if len(found) == 1:
            return (found[0],)
        if found:
            raise CheckpointError(
                f"{place} holds {len(found)} YAML files ({', '.join(file.name for file in found)}), none called "
                "*-project.yaml, model.yaml or config.yaml; give the one you mean as config"
            )
    raise CheckpointError(f"{weights}: found no YAML in {', '.join(str(place) for place in places)}; give its config")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in suffixes and file.is_file())
    except OSError as error:
        raise CheckpointError(f"{folder} can't be read: {error}") from error


def _unique(places: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(places))


def _load_yaml(path: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "reading a checkpoint's config needs PyYAML; install it with: pip install 'trt-vqgan[export]'"
        ) from error
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"config {path} has more than {_MAX_CONFIG_BYTES} bytes, so it is no model's config")
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            # An alias is one shared node until it is merged or copied, so nodes are counted as if they were copied.
            if _expanded_nodes(node, {}) > _MAX_CONFIG_NODES:
                raise CheckpointError(
                    f"config {path} expands to more than {_MAX_CONFIG_NODES} nodes; check its aliases"
                )
            content: object = loader.construct_document(node)
            return content
        finally:
            loader.dispose()
    except (
        yaml.YAMLError,
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
        # What PyYAML's constructors raise for a value that contradicts its tag, such as ``!!bool perhaps``.
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"config {path} can't be read: {reason}") from error


def _expanded_nodes(node: Any, known: dict[int, int | None]) -> int:
    """Return how many nodes a YAML tree has when each alias is a copy; an alias inside itself is an error."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError("an alias contains itself")
        return count
    known[id(node)] = None
    children: list[Any] = []
    if isinstance(node.value, list):
        for item in node.value:
            children.extend(item if isinstance(item, tuple) else (item,))
    count = 1 + sum(_expanded_nodes(child, known) for child in children)
    known[id(node)] = count
    return count


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
