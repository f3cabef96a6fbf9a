"""Fixtures that every test folder may use."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

import pytest

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import GraphFile, read_manifest, record_files, write_manifest
from trt_vqgan.runtime.demos import demo_bundle as demo_path
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
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class model that ships in the package, as a folder of its own."""
    path = demo_path("class")
    if not path.is_file():
        pytest.skip(f"the demo {path.name} isn't in this tree")
    folder = tmp_path_factory.mktemp("demo") / "landscape_class"
    folder.mkdir()
    manifest = read_manifest(path)
    for name in manifest.files:
        shutil.copyfile(path.parent / name, folder / Path(name).name)
    graphs = {
        name: GraphFile(file=Path(g.file).name, data_file=None if g.data_file is None else Path(g.data_file).name)
        for name, g in manifest.graphs.items()
    }
    write_manifest(folder, dataclasses.replace(manifest, graphs=graphs, files=record_files(folder), codebooks={}))
    return folder
