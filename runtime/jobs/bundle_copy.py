"""A bundle brought to a machine that doesn't have it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.cache_folder import cache_folder
from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import MANIFEST_NAME, bundle_folder, manifest_from_json, read_manifest, verify_files

ReadFile = Callable[[str], bytes]


def has_bundle(path: Path, bundle_id: str) -> bool:
    """Return whether the bundle at ``path`` is there and is this one; its files are checked when it is opened."""
    try:
        manifest = read_manifest(path)
    except BundleError:
        return False
    folder = bundle_folder(path)
    return manifest.bundle_id == bundle_id and all((folder / PurePosixPath(name)).is_file() for name in manifest.files)


def copied_bundle(manifest_text: str, read: ReadFile) -> Path:
    """Return a folder of the user's cache with this bundle, copied there if it isn't yet, whole or not at all.

    Parameters
    ----------
    manifest_text : the manifest, as JSON.
    read : gives the content of one of its files.

    Raises
    ------
    BundleError : what came isn't what the manifest says.
    """
    manifest = manifest_from_json(manifest_text)
    target = cache_folder() / "bundles" / manifest.bundle_id
    if has_bundle(target, manifest.bundle_id):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".copying-", dir=target.parent) as temporary:
        folder = Path(temporary) / "bundle"
        for name in manifest.files:
            write_bytes(folder / PurePosixPath(name), read(name))
        write_bytes(folder / MANIFEST_NAME, manifest_text.encode())
        verify_files(folder, manifest)
        try:
            folder.rename(target)
        except OSError:
            if not has_bundle(target, manifest.bundle_id):  # not another worker that was faster: a broken copy
                shutil.rmtree(target)
                folder.rename(target)
    return target
