"""Fixtures that every test folder may use."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.runtime.native.build import built_library

ROOT = Path(__file__).resolve().parent.parent


def pytest_sessionstart() -> None:
    """Build the CPU kernels where they can be, so that ``auto`` means the same from the first test to the last."""
    with contextlib.suppress(BackendUnavailableError):
        built_library()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of checkpoints, golden arrays and photos beside the repository; skips where it isn't."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder ../shared with checkpoints and golden arrays isn't on this machine")
    return path


@pytest.fixture(scope="session")
def demo_bundle() -> Path:
    """The bundle that ships with the package."""
    path = ROOT / "trt_vqgan" / "demo" / "landscape_class"
    if not (path / "manifest.json").is_file():
        pytest.skip("the demo bundle trt_vqgan/demo/landscape_class isn't in this tree")
    return path
