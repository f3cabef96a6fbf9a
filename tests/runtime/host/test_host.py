"""The C++ header, as a host's developer meets it: found by CMake, built by g++, run under the address sanitizer."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan import errors
from trt_vqgan.runtime.requests import GenerateArguments

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
EXAMPLE = ROOT / "examples" / "cpp_host"
INCLUDE = ROOT / "runtime" / "include" / "trt_vqgan"


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is the message where it fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def cmake() -> str:
    """CMake, where all else that a C++ host needs is there too; skips where something is missing."""
    pytest.importorskip("pybind11", reason="pybind11 isn't installed; `make setup` installs it")
    found = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("CMake isn't installed; `make setup` installs it")
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler on this machine")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        pytest.skip("this Python has no headers to embed it with (Debian: python3-dev)")
    return found


@pytest.fixture(scope="session")
def cmakedir() -> str:
    return run(sys.executable, "-m", "trt_vqgan", "--cmakedir").stdout.strip()


@pytest.fixture(scope="session")
def programs(cmake: str, cmakedir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and the cases, built with the sanitizer and every warning an error."""
    folder = tmp_path_factory.mktemp("host_build")
    run(
        cmake, "-S", HERE, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", f"-Dtrt_vqgan_DIR={cmakedir}",
        f"-DEXAMPLE={EXAMPLE}", "-DSANITIZE=ON", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror",
    )  # fmt: skip
    run(cmake, "--build", folder, "--parallel", 2)
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host_bundle")
    return trt_vqgan.export_checkpoint(make_checkpoint(folder / "run", kind="class"), folder / "bundle")


SANITIZED = {"LSAN_OPTIONS": f"suppressions={EXAMPLE / 'leaks.supp'}"}


def test_the_example_does_what_python_does(programs: Path, bundle: Path, tmp_path: Path) -> None:
    done = run(programs / "example" / "cpp_host", bundle, tmp_path, **SANITIZED)
    assert "8 pictures by 4 threads" in done.stdout
    assert "cancelled by on_progress after 0 of 100 pictures" in done.stdout
    with trt_vqgan.load(bundle, threads=1) as pipe:
        assert pipe.backend_details in done.stdout
        for seed in range(8):
            wanted = pipe.generate(n=1, seed=seed)
            codes = np.fromfile(tmp_path / f"seed-{seed}.codes", dtype=np.int64)
            np.testing.assert_array_equal(codes, wanted.codes.reshape(-1))
            assert (tmp_path / f"seed-{seed}.ppm").read_bytes().endswith(wanted.images.tobytes())
        side = pipe.spec.autoencoder.resolution
        steps = np.arange(side) * 255 // side
        picture = np.empty((side, side, 3), dtype=np.uint8)
        picture[..., 0], picture[..., 1], picture[..., 2] = steps, steps[:, None], 128
        codes = pipe.encode(picture)
        np.testing.assert_array_equal(np.fromfile(tmp_path / "gradient.codes", dtype=np.int64), codes.reshape(-1))
        assert (tmp_path / "gradient.ppm").read_bytes().endswith(pipe.decode(codes).tobytes())


@pytest.mark.parametrize(
    "case", ["errors", "views", "held_longer", "requests", "foreign_conditions", "existing_interpreter"]
)
def test_cases(programs: Path, bundle: Path, case: str) -> None:
    package = Path(trt_vqgan.__file__).parent.parent
    run(programs / "cases", case, bundle, **SANITIZED, PYTHONPATH=os.pathsep.join([str(package), *sys.path]))


def test_the_sanitizer_can_fail(programs: Path, bundle: Path, tmp_path: Path) -> None:
    """Without the suppressions CPython's own leaks show, so leaks are looked for."""
    command = [str(programs / "example" / "cpp_host"), str(bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "LeakSanitizer" in done.stderr


def test_every_error_has_its_class() -> None:
    listed = set(re.findall(r"X\((\w+)\)", (INCLUDE / "errors.hpp").read_text()))
    raised = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert raised - {"TrtVqganError"} <= listed, "a new error belongs into errors.hpp too"


def test_every_argument_of_generate_is_in_the_request() -> None:
    given = re.findall(r"found(?:\[|, )\"(\w+)\"", (INCLUDE / "detail" / "arguments.hpp").read_text())
    assert set(given) == set(GenerateArguments.__annotations__)


def test_every_argument_of_load_is_in_the_options() -> None:
    given = set(
        re.findall(r"keywords\[\"(\w+)\"\] = \*?(?:\w+<[\w:]+>\(\*?)?options", (INCLUDE / "host.hpp").read_text())
    )
    wanted = set(inspect.signature(trt_vqgan.load).parameters) - {"bundle"}
    assert wanted <= given, "a new argument belongs into LoadOptions too"


def test_a_program_is_told_what_is_missing(cmake: str, cmakedir: str, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(x LANGUAGES CXX)\nfind_package(trt_vqgan 9.1 REQUIRED)\n"
    )
    command = [cmake, "-S", str(tmp_path), "-B", str(tmp_path / "build"), f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run([*command, f"-Dtrt_vqgan_DIR={cmakedir}"], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"version: {trt_vqgan.__version__}" in " ".join(done.stderr.split())


def test_the_include_flag_serves_without_cmake(cmake: str, tmp_path: Path) -> None:
    flags = [run(sys.executable, "-m", name, "--includes").stdout.split() for name in ("trt_vqgan", "pybind11")]
    source = tmp_path / "x.cpp"
    source.write_text('#include <trt_vqgan/errors.hpp>\nint main() { throw trt_vqgan::ShapeError(""); }\n')
    run(shutil.which("c++") or "g++", "-std=c++17", *flags[0], *flags[1], "-fsyntax-only", source)
