"""What TensorRT-RTX compiled, kept between processes: against a recording fake, as it compiles on a GPU only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.test_engine_session import Recorder, fake_tensorrt
from trt_vqgan import cache_folder
from trt_vqgan.runtime import jit_cache
from trt_vqgan.runtime.engine_session import LoadedEngine
from trt_vqgan.runtime.jit_cache import JitCache
from trt_vqgan.tensorrt_package import FULL, RTX, find_tensorrt

ENGINE = "ab" * 32


class FakeCache:
    """IRuntimeCache: holds the names of kernels, and refuses what another driver wrote."""

    def __init__(self) -> None:
        self.kernels: bytes | None = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"this driver:"):
            return False
        self.kernels = blob
        return True

    def serialize(self) -> memoryview | None:
        return None if self.kernels is None else memoryview(self.kernels)


class FakeConfig:
    """IRuntimeConfig."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes, self.made, self.used = takes, 0, None

    def create_runtime_cache(self) -> FakeCache:
        self.made += 1
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.used = cache
        return self.takes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_folder.CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "tensorrt_rtx"


def used(jit: JitCache) -> FakeCache:
    config = FakeConfig()
    jit.use_in(config)
    assert config.used is not None
    return config.used


def compiled(kernels: bytes = b"this driver: a b", gpu: str = "NVIDIA L4") -> JitCache:
    """Return the cache of a first process that compiled kernels and kept them."""
    jit = JitCache(ENGINE, gpu)
    used(jit).kernels = kernels
    jit.save()
    return jit


def test_the_next_process_finds_what_was_compiled(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiled()
    assert [path.name for path in folder.iterdir()] == [f"{ENGINE[:32]}-nvidia-l4.jit"]
    assert used(JitCache(ENGINE, "NVIDIA L4")).kernels == b"this driver: a b"
    assert used(JitCache(ENGINE, "NVIDIA A100")).kernels == b"", "of another GPU"
    assert used(JitCache("cd" * 32, "NVIDIA L4")).kernels == b"", "of another engine"
    assert not caplog.records


def test_contexts_of_one_engine_share_a_cache() -> None:
    jit, first, second = JitCache(ENGINE, "NVIDIA L4"), FakeConfig(), FakeConfig()
    jit.use_in(first)
    jit.use_in(second)
    assert first.used is second.used
    assert (first.made, second.made) == (1, 0)


def test_it_is_written_only_where_more_was_compiled(folder: Path) -> None:
    JitCache(ENGINE, "NVIDIA L4").save()
    assert not folder.exists(), "nothing was run"
    (path,) = [compiled().path]
    os.utime(path, (5, 5))
    again = JitCache(ENGINE, "NVIDIA L4")
    cache = used(again)
    again.save()
    assert path.stat().st_mtime == 5
    cache.kernels = b"this driver: a b c"
    again.save()
    assert path.read_bytes() == b"this driver: a b c"
    assert [each.name for each in folder.iterdir()] == [path.name], "no temporary file stays"


@pytest.mark.parametrize("content", [b"another driver: x", b"\0" * 8])
def test_another_drivers_is_said_and_replaced(caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    path = compiled().path
    path.write_bytes(content)
    again = JitCache(ENGINE, "NVIDIA L4")
    cache = used(again)
    assert cache.kernels == b""
    assert "is of another driver or TensorRT-RTX, or damaged; kernels are compiled again" in caplog.text
    cache.kernels = b"this driver: a"
    again.save()
    assert path.read_bytes() == b"this driver: a"


def test_what_cannot_be_read_or_written_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    jit = JitCache(ENGINE, "NVIDIA L4")
    jit.path.mkdir(parents=True)
    cache = used(jit)
    assert "can't be read (Is a directory)" in caplog.text
    cache.kernels = b"this driver: a"
    jit.save()
    assert "can't be written (is a folder, wanted a file name)" in caplog.text
    jit.path.rmdir()
    folder.rmdir()
    folder.write_text("no folder")
    jit.save()
    assert caplog.text.count("can't be written") == 2


def test_refusals_of_tensorrt_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    jit, config = JitCache(ENGINE, "NVIDIA L4"), FakeConfig(takes=False)
    jit.use_in(config)
    assert "doesn't take its cache of compiled kernels" in caplog.text
    assert isinstance(config.used, FakeCache)
    config.used.kernels = None
    jit.save()
    assert "doesn't give its compiled kernels" in caplog.text
    assert not folder.exists()


def test_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit_cache, "KEPT_FILES", 2)
    for age, gpu in enumerate(("a", "b", "c")):
        os.utime(compiled(gpu=gpu).path, (age, age))
    compiled(gpu="d")
    assert sorted(path.stem.rpartition("-")[2] for path in folder.iterdir()) == ["c", "d"]


@pytest.mark.parametrize("package", [FULL, RTX])
def test_an_engine_gives_it_to_its_contexts(folder: Path, package: str, caplog: pytest.LogCaptureFixture) -> None:
    """Before the context is made, as that compiles; full TensorRT has none."""
    calls: list[Any] = []
    jit = JitCache(ENGINE, "NVIDIA L4")
    tensorrt = fake_tensorrt(calls, package=package)
    engine = LoadedEngine(b"engine", tensorrt=tensorrt, name="decoder", jit=jit)
    made: list[FakeCache] = []

    def new_cache() -> FakeCache:
        made.append(FakeCache())
        return made[-1]

    engine._engine.answers["create_runtime_config"] = lambda: Recorder(calls, create_runtime_cache=new_cache)
    engine.session(profile=0, stream_handle=7)
    names = [call[0] for call in calls]
    assert names.count("set_runtime_cache") == (1 if package == RTX else 0)
    if package == RTX:
        assert names.index("set_runtime_cache") < names.index("create_execution_context")
        made[0].kernels = b"this driver: a"
    engine.save_compiled()
    assert jit.path.is_file() == (package == RTX)
    assert not caplog.records


def test_the_installed_tensorrt_rtx_has_these_names() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    module = find_tensorrt(RTX).module
    assert {"create_runtime_cache", "set_runtime_cache"} <= set(dir(module.IRuntimeConfig))
    assert {"deserialize", "serialize"} <= set(dir(module.IRuntimeCache))
