"""Building the library: once, whole or not at all, and with clear errors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.kernels import compiling
from trt_vqgan.runtime.native import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_compiler(folder: Path, script: str) -> None:
    """Make a compiler that notes each call in a log beside it, then does as ``script`` says; $out is its target."""
    folder.mkdir(exist_ok=True)
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/log\nwhile [ "$1" != -o ]; do shift; done\nout="$2"\n{script}\n')
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in front of which nothing else is found but the shell's own tools."""
    if sys.platform == "win32":
        pytest.skip("the compilers of these tests are shell scripts")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), str(tmp_path / "none")]))
    return tmp_path / "bin"


def test_the_library_is_built_once(cache: Path, tools: Path) -> None:
    fake_compiler(tools, 'echo library > "$out"')
    assert build.find_library() is None
    first = build.built_library()
    calls = (tools / "log").read_text()
    assert first.parent == cache
    assert build.built_library() == first == build.find_library()
    assert (tools / "log").read_text() == calls
    assert list(cache.iterdir()) == [first], "nothing half-made stays"


def test_other_sources_are_another_library(
    cache: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tools, 'echo library > "$out"')
    first = build.built_library()
    sources = tmp_path / "sources"
    sources.mkdir()
    for source in build.SOURCES.iterdir():
        (sources / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(build, "SOURCES", sources)
    assert build.built_library() == first
    (sources / "lanes.hpp").write_text((sources / "lanes.hpp").read_text() + "\n")
    assert build.find_library() is None


def test_a_wheels_own_library_is_taken(
    cache: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PACKAGED", tmp_path)
    (tmp_path / "transformer-0123456789abcdef.so").touch()  # of other sources
    assert build.find_library() is None
    library = tmp_path / build.library_name()
    library.touch()
    assert build.built_library() == library == build.find_library()
    assert not cache.exists()


def test_old_libraries_are_removed(cache: Path, tools: Path) -> None:
    fake_compiler(tools, 'echo library > "$out"')
    cache.mkdir()
    for age in range(1, 8):
        library = cache / f"transformer-{age}.so"
        library.touch()
        os.utime(library, (1e9 - age, 1e9 - age))
    (cache / "another").touch()
    newest = build.built_library()
    assert {path.name for path in cache.iterdir()} == {
        "another",
        newest.name,
        *(f"transformer-{age}.so" for age in range(1, build.KEPT_LIBRARIES)),
    }


def test_no_compiler_is_one_clear_error(cache: Path, tools: Path) -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"no C\+\+ compiler.*apt-get install g\+\+.*--backend onnxruntime"
    ):
        build.built_library()


def test_a_compiler_that_fails_leaves_nothing(cache: Path, tools: Path) -> None:
    fake_compiler(tools, 'echo "x.cpp:1:2: error: too old" >&2; exit 1')
    with pytest.raises(BackendUnavailableError, match=r"can't compile.*x.cpp:1:2: error: too old"):
        build.built_library()
    assert not list(cache.iterdir())


def test_a_compiler_without_tiles_builds_the_rest(cache: Path, tools: Path) -> None:
    """GCC 10 knows no AMX; the library then has all else."""
    fake_compiler(tools, '[ "$out" = /dev/null ] && exit 1; echo library > "$out"')
    assert build.built_library().is_file()
    calls = (tools / "log").read_text().splitlines()
    assert not any("-DCPU_AMX" in call or "amx.cpp" in call for call in calls)
    build.built_library().unlink()
    fake_compiler(tools, '[ "$out" = /dev/null ] || echo library > "$out"')
    build.built_library()
    if sys.platform == "linux" and platform.machine() == "x86_64":
        calls = (tools / "log").read_text().splitlines()
        assert any("amx.cpp" in call for call in calls)
        assert any("instructions.cpp" in call and "-DCPU_AMX" in call for call in calls)


@pytest.mark.parametrize("status", [0, 1])
def test_arm_has_its_own_kernels(
    cache: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Two sets beside plain C++; an option that only GCC knows is left out where the compiler doesn't."""
    fake_compiler(tools, f'[ "$out" = /dev/null ] && exit {status}; echo object > "$out"')
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    build.built_library()
    calls = (tools / "log").read_text().splitlines()
    neon = [call for call in calls if "-DCPU_NEON" in call]
    assert ["-DCPU_TABLE=kNeonDot" in call for call in neon].count(True) == 1
    assert all(("-DCPU_NEON_DOT" in call) == ("+dotprod" in call) == ("kNeonDot" in call) for call in neon)
    assert {"-fno-tree-vectorize" in call for call in neon} == {status == 0}
    assert len([call for call in calls if "-DCPU_TABLE=kPlain" in call and "-fno-tree-vectorize" not in call]) == 3
    assert not any("-mavx" in call or "-DCPU_AMX" in call for call in calls)


def test_a_folder_that_can_not_be_written(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tools, 'echo library > "$out"')
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(BackendUnavailableError, match=rf"can't be written.*\${build.CACHE_VARIABLE}"):
        build.built_library()


def test_a_slow_build_says_so(cache: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tools, 'echo library > "$out"')
    lines: list[str] = []
    build.built_library(say=lines.append)
    assert lines == []
    build.built_library().unlink()
    monkeypatch.setattr(compiling, "SLOW_SECONDS", 0.0)
    build.built_library(say=lines.append)
    assert len(lines) == 1
    assert "compiling the CPU kernels" in lines[0]


def test_two_processes_may_build_at_once(cache: Path, tools: Path) -> None:
    fake_compiler(tools, '/bin/sleep 0.02; echo library > "$out"')
    code = "from trt_vqgan.runtime.native.build import built_library; print(built_library())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).read_text() == "library\n"
    assert len(list(cache.iterdir())) == 1
    links = [line for line in (tools / "log").read_text().splitlines() if "-shared" in line]
    assert len(links) == 2, "one waited for nothing, and the other's library is as good"


def test_it_can_be_built_ahead(
    cache: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main() == 1
    assert capsys.readouterr().err.startswith("trt-vqgan: error: native backend: no C++ compiler")
    fake_compiler(tools, 'echo library > "$out"')
    assert build.main() == 0
    assert Path(capsys.readouterr().out.strip()) == build.find_library()
