"""Several models in one folder, each with a manifest of its own name."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import bundle_folder, manifest_to_json, read_manifest, record_files
from trt_vqgan.runtime.pipeline import load


@pytest.fixture
def two_models(demo_bundle: Path, tmp_path: Path) -> Path:
    """A folder with the manifests one.json and two.json, whose codebooks lie in different places."""
    folder = tmp_path / "models"
    shutil.copytree(demo_bundle, folder)
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    (folder / "one.json").write_text(manifest_to_json(manifest))
    (folder / "own").mkdir()
    (folder / "codebook.npy").rename(folder / "own" / "codes.npy")
    files = {name: record for name, record in record_files(folder).items() if name != "one.json"}
    moved = dataclasses.replace(manifest, files=files, codebooks={"codebook": "own/codes.npy"})
    (folder / "two.json").write_text(manifest_to_json(moved))
    return folder


def test_a_manifest_is_the_path_of_its_model(two_models: Path, demo_bundle: Path) -> None:
    with load(demo_bundle) as whole, load(two_models / "two.json") as pipe:
        wanted = whole.generate(n=1, class_id=1, seed=3)
        found = pipe.generate(n=1, class_id=1, seed=3)
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_array_equal(found.images, wanted.images)


def test_each_manifest_is_held_to_its_own_files(two_models: Path) -> None:
    with pytest.raises(BundleError, match=r"codebook\.npy is missing"):
        load(two_models / "one.json")


def test_a_manifest_that_is_not_there(two_models: Path) -> None:
    with pytest.raises(BundleError, match=r"three\.json: no such manifest"):
        load(two_models / "three.json")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        load(two_models)


def test_a_folder_may_be_named_like_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "odd.json"
    folder.mkdir()
    assert bundle_folder(folder) == folder
