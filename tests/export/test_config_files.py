"""Finding a checkpoint's files and reading its YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")

from trt_vqgan.errors import CheckpointError
from trt_vqgan.export.config_files import find_files, load_config


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def found(root: Path, path: str = ".", config: str | None = None) -> tuple[str, list[str]]:
    """Return what `find_files` finds, relative to ``root``."""
    weights, configs = find_files(root / path, None if config is None else root / config)
    return weights.relative_to(root).as_posix(), [item.relative_to(root).as_posix() for item in configs]


def test_project_configs_in_name_order(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoints/last.ckpt", "checkpoints/epoch=3.ckpt", "checkpoints/trash.txt")
    touch(
        tmp_path, "configs/b-project.yaml", "configs/a-project.yaml", "configs/a-lightning.yaml", "configs/model.yaml"
    )
    wanted = ("checkpoints/last.ckpt", ["configs/a-project.yaml", "configs/b-project.yaml"])
    assert found(tmp_path) == wanted
    assert found(tmp_path, "checkpoints/last.ckpt") == wanted
    assert found(tmp_path, "checkpoints/epoch=3.ckpt") == ("checkpoints/epoch=3.ckpt", wanted[1])
    assert found(tmp_path, config="configs/model.yaml")[1] == ["configs/model.yaml"]
    assert found(tmp_path, config="configs")[1] == wanted[1]


@pytest.mark.parametrize(
    ("files", "path", "weights", "config"),
    [
        (("configs/model.yaml", "checkpoints/last.ckpt"), ".", "checkpoints/last.ckpt", "configs/model.yaml"),
        (("config.yaml", "model.ckpt"), ".", "model.ckpt", "config.yaml"),
        (("config.yaml", "model.ckpt"), "model.ckpt", "model.ckpt", "config.yaml"),
        (("x.yaml", "x.safetensors"), ".", "x.safetensors", "x.yaml"),
        (("x.yaml", "y.yaml", "x.ckpt", "y.ckpt"), "y.ckpt", "y.ckpt", "y.yaml"),
        (("config.yaml", "checkpoints/only.ckpt"), ".", "checkpoints/only.ckpt", "config.yaml"),
        (("checkpoints/config.yaml", "checkpoints/a.ckpt"), "checkpoints", "checkpoints/a.ckpt",
         "checkpoints/config.yaml"),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, files: tuple[str, ...], path: str, weights: str, config: str) -> None:
    touch(tmp_path, *files)
    assert found(tmp_path, path) == (weights, [config])


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ((), "nowhere", "nowhere doesn't exist"),
        (("config.yaml",), ".", "found no file of weights"),
        (("config.yaml",), "config.yaml", "is a YAML"),
        (("model.ckpt",), ".", "found no YAML"),
        (("config.yaml", "a.ckpt", "b.ckpt"), ".", r"2 files of weights \(a.ckpt, b.ckpt\)"),
        (("a.yaml", "b.yaml", "model.ckpt"), ".", r"2 YAML files \(a.yaml, b.yaml\)"),
        (("configs/x-lightning.yaml", "checkpoints/last.ckpt"), ".", "found no YAML"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, files: tuple[str, ...], path: str, message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(CheckpointError, match=message):
        found(tmp_path, path)


def test_missing_config_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "model.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.yaml doesn't exist"):
        found(tmp_path, config="other.yaml")


def test_merging(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {target: t, params: {a: 1, b: [1, 2], c: {d: 1, e: 2}}}")
    (tmp_path / "b.yaml").write_text("")
    (tmp_path / "c.yaml").write_text("model: {params: {b: [3], c: {d: 5}}}\ndata: {x: 1}")
    merged = load_config([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"])
    assert merged == {"model": {"target": "t", "params": {"a": 1, "b": [3], "c": {"d": 5, "e": 2}}}, "data": {"x": 1}}


def test_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: &id001 {target: t}\ntwo: *id001\nthree: {<<: *id001, extra: 1}")
    merged = load_config([tmp_path / "a.yaml"])
    assert merged == {"one": {"target": "t"}, "two": {"target": "t"}, "three": {"target": "t", "extra": 1}}


def laughs(levels: int, entry: str) -> str:
    """The billion laughs: each level names the one before ten times."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        inside = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + entry.replace("INSIDE", inside))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch ran']", "python"),
        ("a: !!python/name:os.system", "python"),
        ("!!python/object/new:os.system [x]", "python"),
        (laughs(12, "[INSIDE]"), "nodes"),
        (laughs(12, "{<<: [INSIDE]}"), "nodes"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("[" * 5000, "can't be read"),
        ("a: [1, 2", "can't be read"),
        ("a: *missing", "can't be read"),
        ("- 1\n- 2", "found list, wanted a mapping"),
        ("just text", "found str"),
        ("a: " + "9" * 5000, "can't be read"),
        ("\x00", "can't be read"),
        ("a: !!bool perhaps", "can't be read"),
        ("a: !!timestamp perhaps", "can't be read"),
        ("a: !!int ''", "can't be read"),
        ("a: !!float perhaps", "can't be read"),
        ("#" * 1_100_000, "no model's config"),
    ],
)
def test_hostile_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_config([tmp_path / "a.yaml"])
    assert not (tmp_path / "ran").exists()


def test_yaml_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_config([tmp_path / "a.yaml"])
