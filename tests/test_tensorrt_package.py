"""Which TensorRT is found, and what is said where there is none."""

from __future__ import annotations

import sys
import types

import pytest

from trt_vqgan import tensorrt_package
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.tensorrt_package import TensorRTLog, find_tensorrt


def fake(version: str) -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.fixture
def neither(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No TensorRT can be imported."""
    for name in tensorrt_package.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    return monkeypatch


def test_none(neither: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        find_tensorrt()
    message = str(caught.value)
    assert "tensorrt is not installed, and tensorrt_rtx is not installed" in message
    assert "pip install 'trt-vqgan[tensorrt-rtx]'" in message


def test_full_tensorrt_comes_first_unless_asked_otherwise(neither: pytest.MonkeyPatch) -> None:
    neither.setitem(sys.modules, "tensorrt_rtx", fake("1.7.1"))
    assert find_tensorrt().title == "TensorRT-RTX 1.7.1"
    neither.setitem(sys.modules, "tensorrt", fake("11.4.0"))
    assert find_tensorrt().title == "TensorRT 11.4.0"
    assert find_tensorrt("tensorrt_rtx").package == "tensorrt_rtx"


@pytest.mark.parametrize("version", ["10.12.0", "8.6", "unknown"])
def test_one_that_is_too_old(neither: pytest.MonkeyPatch, version: str) -> None:
    neither.setitem(sys.modules, "tensorrt", fake(version))
    with pytest.raises(BackendUnavailableError, match=f"tensorrt is version {version}, wanted at least 10.13"):
        find_tensorrt()


def test_one_that_is_broken(neither: pytest.MonkeyPatch, tmp_path: object) -> None:
    def broken(name: str) -> types.ModuleType:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    neither.setattr(tensorrt_package.importlib, "import_module", broken)
    with pytest.raises(BackendUnavailableError, match=r"can't be imported \(libnvinfer"):
        find_tensorrt("tensorrt")


def test_the_log_tells_errors_once_and_in_order() -> None:
    class Logger:
        class Severity:
            INTERNAL_ERROR, ERROR, WARNING = range(3)

    log = TensorRTLog(types.SimpleNamespace(ILogger=Logger))
    assert log.told() == "TensorRT gives no reason"
    for level, line in ((2, "careful"), (1, "first\n reason"), (0, "second"), (1, "first\n reason")):
        log.logger.log(level, line)
    assert log.told() == "TensorRT says: first reason | second"
    assert log.details == ["careful"]
