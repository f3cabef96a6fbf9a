"""What the package promises about itself, and that its import rules can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from trt_vqgan.runtime.native import build

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LINKED = ("export", "runtime", "kernels", "benchmarks")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def package_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements}


def test_the_base_install_is_light() -> None:
    assert package_names(project()["dependencies"]) == {"click", "numpy", "onnxruntime", "pillow", "tqdm"}


def test_extras() -> None:
    extras = {name: package_names(packages) for name, packages in project()["optional-dependencies"].items()}
    # onnxruntime-gpu would overwrite the files of onnxruntime.
    assert not any("onnxruntime-gpu" in packages for packages in extras.values())
    assert extras["gpu"] == {"tensorrt", "pycuda", "cuda-bindings"}
    requirements = project()["optional-dependencies"]["dev"]
    assert not extras["dev"] & extras["gpu"]
    own = [requirement for requirement in requirements if requirement.startswith("trt-vqgan")]
    assert len(own) == 1
    taken = set(own[0].removeprefix("trt-vqgan[").removesuffix("]").split(","))
    assert taken <= set(extras) - {"gpu", "dev"}


def test_source_folders_are_linked() -> None:
    for name in LINKED:
        link = ROOT / "trt_vqgan" / name
        assert link.is_dir()
        # In a source tree they are relative links; in an unpacked sdist they are the folders themselves.
        assert not link.is_symlink() or link.readlink() == Path("..") / name


def tool(name: str) -> str:
    path = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if path is None:
        pytest.skip(f"{name} isn't installed; `make setup` installs it")
    return path


@pytest.mark.parametrize("name", LINKED)
def test_bare_imports_are_banned(name: str) -> None:
    done = subprocess.run(
        [tool("ruff"), "check", "--config", str(ROOT / "pyproject.toml"), "--stdin-filename", "x.py", "-"],
        input=f"from {name} import anything\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("runtime/planted.py", "import torch"),
        ("kernels/planted.py", "import onnx"),
        ("runtime/planted.py", "import trt_vqgan.export"),
        ("export/planted.py", "import trt_vqgan.runtime"),
        ("kernels/planted.py", "import trt_vqgan.runtime"),
        ("runtime/pipeline.py", "import fastapi"),
    ],
)
def test_import_rules_can_fail(tmp_path: Path, file: str, line: str) -> None:
    """A small copy of the layout with one wrong import breaks a contract, and without it keeps all."""
    linter = tool("lint-imports")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "trt_vqgan"
    for name in (".", *LINKED, "cli"):
        (package / name).mkdir(exist_ok=True, parents=True)
        (package / name / "__init__.py").touch()
    for module in (ROOT / "trt_vqgan").glob("*.py"):
        (package / module.name).touch()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    for named in {name for contract in contracts for name in contract.get("source_modules", ())}:
        module = tmp_path.joinpath(*named.split("."))
        module.parent.mkdir(exist_ok=True, parents=True)
        for folder in (module.parent, *module.parent.parents):
            if folder.is_relative_to(package):
                (folder / "__init__.py").touch()
        if not module.is_dir():
            module.with_suffix(".py").touch()

    def kept() -> bool:
        done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
        assert "Contracts:" in done.stdout, done.stdout + done.stderr
        return done.returncode == 0

    assert kept()
    (package / file).write_text(line + "\n")
    assert not kept()


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, without the demos' weights."""
    pytest.importorskip("hatchling", reason="hatchling isn't installed; `make setup` installs it")
    folder = tmp_path_factory.mktemp("tree") / "project"
    shutil.copytree(
        ROOT / "trt_vqgan", folder / "trt_vqgan", ignore=shutil.ignore_patterns("demo", "__pycache__", ".*")
    )
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def built_wheel(tree: Path, out: Path, compiler: str | None) -> tuple[str, list[str]]:
    """Return the name of a wheel and of the libraries in it; ``compiler`` is the script of one, None for none."""
    if sys.platform == "win32":
        pytest.skip("the compiler of this test is a shell script")
    tools = out / "bin"
    tools.mkdir(parents=True)
    if compiler is not None:
        (tools / "c++").write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{compiler}\n')
        (tools / "c++").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        env={"PATH": str(tools), "HOME": str(out), "TMPDIR": str(out)},
        capture_output=True,
        text=True,
        cwd=tree,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    assert not list(out.glob("trt-vqgan-*")), "what was compiled is removed"
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, [name for name in archive.namelist() if name.endswith(".so")]


def test_a_wheel_has_the_compiled_kernels(source_tree: Path, tmp_path: Path) -> None:
    name, libraries = built_wheel(source_tree, tmp_path, 'echo library > "$2"')
    assert re.search(r"-py3-none-(linux|macosx)_\w+\.whl$", name), name
    assert libraries == [f"trt_vqgan/runtime/native/{build.library_name()}"], "it is found where it was unpacked"


@pytest.mark.parametrize("compiler", [None, "echo 'error: too old' >&2; exit 1"], ids=["none", "failing"])
def test_a_wheel_without_a_compiler_is_pure(source_tree: Path, tmp_path: Path, compiler: str | None) -> None:
    name, libraries = built_wheel(source_tree, tmp_path, compiler)
    assert name.endswith("-py3-none-any.whl")
    assert not libraries
