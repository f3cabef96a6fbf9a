"""What the package promises about itself, and that its import rules can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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

    def kept() -> bool:
        done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
        assert "Contracts:" in done.stdout, done.stdout + done.stderr
        return done.returncode == 0

    assert kept()
    (package / file).write_text(line + "\n")
    assert not kept()
