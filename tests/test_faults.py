"""What is left when a disk is full, when generating is killed, and when a byte of a bundle was changed."""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trt_vqgan
from tests.export.checkpoint_factory import make_checkpoint
from trt_vqgan.errors import BundleError
from trt_vqgan.manifest import manifest_from_json, read_manifest

COMMAND = [sys.executable, "-m", "trt_vqgan"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("faults") / "run", kind="class")


@pytest.fixture(scope="module")
def bundle(run_folder: Path) -> Path:
    return trt_vqgan.export_checkpoint(run_folder, run_folder.parent / "bundle")


class SmallDisk:
    """A file system of a few kilobytes at one place, which only the commands that run on it see."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def run(self, *command: object, kilobytes: int, before: str = "true") -> tuple[int, str, list[str]]:
        """Return status, standard error and the files that are left."""
        words = shlex.join(str(word) for word in command)
        script = (
            f"mount -t tmpfs -o size={kilobytes}k tmpfs {shlex.quote(str(self.place))} && {before} && "
            f"{{ {words} >/dev/null; status=$?; find {shlex.quote(str(self.place))} -type f; exit $status; }}"
        )
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stderr, done.stdout.split()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> SmallDisk:
    disk = SmallDisk(tmp_path_factory.mktemp("disk"))
    if shutil.which("unshare") is None or disk.run("true", kilobytes=16)[0] != 0:
        pytest.skip("no file system can be mounted here without rights (unshare -rm)")
    return disk


def check_told(status: int, error: str, place: Path) -> None:
    assert status == 1, error
    assert error.startswith("trt-vqgan: error: ")
    assert error.count("\n") == 1
    assert str(place) in error
    assert "No space left on device" in error or "requested and" in error, error
    assert "free" in error


def test_a_full_disk_while_generating(small_disk: SmallDisk, bundle: Path) -> None:
    out = small_disk.place / "out"
    status, error, left = small_disk.run(*COMMAND, "generate", bundle, "-n", 2, "-o", out, kilobytes=4)
    check_told(status, error, out)
    assert len(left) <= 1, "at most the picture that had room"
    assert not [name for name in left if "/." in name]


def test_a_full_disk_while_decoding(small_disk: SmallDisk, bundle: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes.npz"
    np.savez(codes, codes=np.random.default_rng(0).integers(0, 8, (1, 64, 64)))
    status, error, left = small_disk.run(*COMMAND, "decode", bundle, codes, "-o", small_disk.place / "out", kilobytes=4)
    check_told(status, error, small_disk.place)
    assert left == []


def test_a_full_disk_while_exporting(small_disk: SmallDisk, run_folder: Path) -> None:
    target = small_disk.place / "bundle"
    status, error, left = small_disk.run(*COMMAND, "export", run_folder, "-o", target, kilobytes=64)
    check_told(status, error, target)
    assert left == []


def test_a_full_disk_while_building(small_disk: SmallDisk, run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed; `make setup` installs it")
    whole = trt_vqgan.export_checkpoint(run_folder, tmp_path / "gpu", gpu=True)
    files = [path for path in whole.rglob("*") if path.is_file()]
    kilobytes = sum(-(-path.stat().st_size // 4096) * 4 for path in files)
    copy = f"cp -r {shlex.quote(str(whole))} {shlex.quote(str(small_disk.place / 'bundle'))}"
    target = small_disk.place / "bundle"
    command = [*COMMAND, "build", target, "--target", "sm86"]
    status, error, left = small_disk.run(*command, kilobytes=kilobytes + 16, before=copy)
    check_told(status, error, target)
    assert not [name for name in left if "/." in name]
    engines = [name for name in left if name.endswith(".engine")]
    assert len(left) == len(files) + len(engines) + bool(engines), "engines that had room, and their records"


def test_a_killed_generate_leaves_whole_pictures(bundle: Path, tmp_path: Path) -> None:
    """Killed before the second picture gets its name; the next run makes all."""
    out = tmp_path / "out"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from trt_vqgan.cli import main\n"
        "replace, calls = Path.replace, []\n"
        "def second_kills(path, target):\n"
        "    calls.append(target)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return replace(path, target)\n"
        "Path.replace = second_kills\n"
        "main(['generate', sys.argv[1], '-n', '3', '--batch-size', '1', '-o', sys.argv[2]])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(bundle), str(out)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = sorted(path.name for path in out.glob("*.png"))
    assert len(whole) == 1
    assert len(list(out.glob(".trt-vqgan.*.tmp"))) == 1
    first = np.asarray(Image.open(out / whole[0]))
    again = subprocess.run(
        [*COMMAND, "generate", str(bundle), "-n", "3", "-o", str(out)], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert len(list(out.glob("*.png"))) == 3
    np.testing.assert_array_equal(np.asarray(Image.open(out / whole[0])), first)


def test_a_flipped_bit_of_any_file_is_named(bundle: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    names = list(read_manifest(folder).files)
    assert {Path(name).suffix for name in names} == {".onnx", ".data", ".npy"}
    for name in names:
        content = (folder / name).read_bytes()
        for place in (0, len(content) - 1, chance.randrange(len(content))):
            changed = bytearray(content)
            changed[place] ^= 1 << chance.randrange(8)
            (folder / name).write_bytes(changed)
            with pytest.raises(BundleError, match=name.replace(".", r"\.")):
                trt_vqgan.load(folder)
        (folder / name).write_bytes(content)
    trt_vqgan.load(folder).close()


def test_a_flipped_bit_of_the_manifest_is_told_or_harmless(bundle: Path) -> None:
    """A manifest isn't hashed: one whose text stays valid is another manifest; nothing else may come out."""
    chance = random.Random(1)
    content = (bundle / "manifest.json").read_bytes()
    refused = 0
    for _ in range(1000):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        try:
            manifest_from_json(changed.decode("utf-8", errors="replace"), "the/manifest.json")
        except BundleError as error:
            refused += "the/manifest.json" in str(error)
    assert refused > 500
