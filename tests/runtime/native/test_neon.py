"""The CPU kernels of 64-bit ARM, in an emulator: to the bit those of AVX2, which the same program writes here."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_vqgan.runtime.native import build

CROSS_COMPILER = "aarch64-linux-gnu-g++"
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
EMULATOR = next((found for name in EMULATORS if (found := shutil.which(name))), None)
SOURCE = Path(__file__).with_name("neon_check.cpp")
LACKS_INSTRUCTIONS = 3

if sys.platform != "linux" or platform.machine() != "x86_64" or build.find_compiler() is None:
    pytest.skip("compares with AVX2: needs Linux on x86-64 and a C++ compiler", allow_module_level=True)
if not shutil.which(CROSS_COMPILER) or EMULATOR is None:
    pytest.skip(
        f"needs {CROSS_COMPILER} and qemu-aarch64 (Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user)",
        allow_module_level=True,
    )

Results = dict[str, bytes]
Write = Callable[..., tuple[str, Results]]


def compile_check(compiler: str, folder: Path, *, machine: str) -> Path:
    objects = build.compile_objects(compiler, folder, machine=machine, say=lambda line: None)
    options = ("-std=c++17", "-O1", "-ffp-contract=off", "-static", "-pthread", "-I", str(build.SOURCES))
    program = folder / "neon_check"
    subprocess.run([compiler, *options, str(SOURCE), *map(str, objects), "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = build.find_compiler()
    assert compiler is not None
    return compile_check(compiler, tmp_path_factory.mktemp("here"), machine="x86_64")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_check(CROSS_COMPILER, tmp_path_factory.mktemp("arm"), machine="aarch64")


def write(folder: Path, *command: str) -> tuple[str, Results]:
    """Return what the kernels are called, and every result that they write to ``folder``."""
    done = subprocess.run([*command, str(folder)], check=False, capture_output=True, text=True)
    if done.returncode == LACKS_INSTRUCTIONS:
        return "", {}
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), {path.name: path.read_bytes() for path in folder.iterdir()}


def emulate(program: Path, folder: Path, *, cpu: str, instructions: str) -> tuple[str, Results]:
    assert EMULATOR is not None
    return write(folder, EMULATOR, "-cpu", cpu, str(program), instructions)


@pytest.fixture(scope="module")
def avx2(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    name, results = write(tmp_path_factory.mktemp("avx2"), str(here), "avx2")
    if not name:
        pytest.skip("this processor has no AVX2")
    return results


@pytest.fixture(scope="module")
def plain(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write(tmp_path_factory.mktemp("plain"), str(here), "plain")[1]


def different(found: Results, wanted: Results) -> list[str]:
    assert len(wanted) > 100
    assert found.keys() == wanted.keys()
    return sorted(name for name in wanted if found[name] != wanted[name])


@pytest.mark.parametrize(
    ("cpu", "instructions", "name"),
    [
        ("max", "neondot", "NEON with dot products, NEON"),
        ("max", "neon", "NEON, NEON"),
        ("max", "", "NEON with dot products, NEON"),
        ("cortex-a53", "neon", "NEON, NEON"),
        ("cortex-a53", "", "NEON, NEON"),  # it has no dot products
    ],
)
def test_every_result_is_that_of_avx2(
    arm: Path, avx2: Results, tmp_path: Path, cpu: str, instructions: str, name: str
) -> None:
    found, results = emulate(arm, tmp_path, cpu=cpu, instructions=instructions)
    assert found == name
    assert different(results, avx2) == []


def test_plain_is_plain_everywhere(arm: Path, plain: Results, tmp_path: Path) -> None:
    name, results = emulate(arm, tmp_path, cpu="cortex-a53", instructions="plain")
    assert name == "plain C++, plain C++"
    assert different(results, plain) == []


def test_dot_products_are_refused_where_there_are_none(arm: Path, tmp_path: Path) -> None:
    assert emulate(arm, tmp_path, cpu="cortex-a53", instructions="neondot") == ("", {})


def test_another_rounding_is_noticed(avx2: Results, plain: Results) -> None:
    """Plain C++ rounds products before it adds them: what a missing fused multiply-add would look like."""
    names = different(plain, avx2)
    assert {"panel_bits32_block32_rows1", "attention_64_4", "attention_64_2", "network", "transformer_bits4"} <= set(
        names
    )
    assert not any(name.startswith("draws") or name == "quantize_row_32" for name in names)
