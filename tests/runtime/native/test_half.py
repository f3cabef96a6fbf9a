"""Caches of float16: every number goes in as NumPy rounds it and comes out as it went in, on every instruction set."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trt_vqgan.runtime.native import build

COMPILER = build.find_compiler()
if COMPILER is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)

SOURCE = Path(__file__).with_name("half_check.cpp")
ON_ARM = platform.machine() in ("aarch64", "arm64")
INSTRUCTIONS = ("neon", "plain") if ON_ARM else ("avx512", "avx2", "plain")
LACKS_INSTRUCTIONS = 3
ROW = 16
LARGEST = float(np.finfo(np.float16).max)

FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    objects = build.compile_objects(str(COMPILER), folder, machine=platform.machine(), say=lambda line: None)
    program = folder / "half_check"
    options = ("-std=c++17", "-O1", "-pthread", "-I", str(build.SOURCES))
    subprocess.run([str(COMPILER), *options, str(SOURCE), *map(str, objects), "-o", str(program)], check=True)
    return program


def numbers() -> FloatArray:
    """Return every half, what lies between two, the floats beside both, and what is beyond all halves; in rows."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    near = [np.nextafter(x, np.float32(to)) for x in (halves[1:], between) for to in (0, np.inf)]
    beyond = np.array([65504.1, 65519.9, 65520, 1e6, 3e38, np.inf, np.nan, 1e-40], np.float32)
    positive = np.concatenate([halves, between, *near, beyond])
    signed = np.concatenate([positive, -positive])
    return np.pad(signed, (0, -len(signed) % ROW)).reshape(-1, ROW)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_halves_are_rounded_as_numpy_does(program: Path, instructions: str) -> None:
    rows = numbers()
    done = subprocess.run([program, instructions], input=rows.tobytes(), capture_output=True, check=False)
    if done.returncode == LACKS_INSTRUCTIONS:
        pytest.skip(f"this processor has no {instructions}")
    assert done.returncode == 0
    found = np.frombuffer(done.stdout, dtype=[("values", "<f2", ROW), ("keys", "<f2", ROW), ("out", "<f4", ROW)])
    wanted = np.clip(rows, -LARGEST, LARGEST).astype(np.float16)
    for name in ("values", "keys"):
        np.testing.assert_array_equal(found[name], wanted)
    np.testing.assert_array_equal(np.signbit(found["values"][rows == 0]), np.signbit(rows[rows == 0]))
    np.testing.assert_array_equal(found["out"], wanted.astype(np.float32))
