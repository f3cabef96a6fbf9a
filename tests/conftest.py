"""Fixtures that every test folder may use."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
