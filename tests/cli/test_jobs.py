"""``generate --shard-size`` and ``--ray``: what they print, and what they refuse; tests/runtime/jobs has the jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import trt_vqgan
from tests.runtime.jobs.small_jobs import small_bundle
from trt_vqgan.cli import main
from trt_vqgan.runtime.jobs import making


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("class"))


def test_a_job_on_one_machine(bundle: Path, tmp_path: Path) -> None:
    command = ["generate", bundle, "-o", tmp_path, "-n", "5", "--seed", "7", "--class", "sea", "--shard-size", "2"]
    report = json.loads(run(*command, "--json"))
    assert (report["pictures"], report["shards"], report["shards_made"]) == (5, 3, 3)
    (worker,) = report["workers"]
    assert (worker["name"], worker["shards"], worker["codes"], worker["deaths"]) == ("worker 1", 3, 320, 0)
    assert worker["codes_per_second"] > 0
    # finished shards are no more made: not even a missing picture is noticed, which `missing` doesn't look for
    again = json.loads(run(*command, "--json"))
    assert (again["shards_made"], again["codes_per_second"]) == (0, None)
    assert "5 pictures in 3 shards" in run(*command)
    assert "all of them were there" in run(*command)
    assert "holds a job with temperature 1.0, this one has 0.5" in run(*command, "--temperature", "0.5", status=1)
    with trt_vqgan.load(bundle) as pipeline, np.load(tmp_path / "shards" / "00002.npz") as arrays:
        made = pipeline.generate(n=1, seed=7, class_id="sea", first_picture=4)
        np.testing.assert_array_equal(arrays["codes"], made.codes)
    # the codes of a shard are what `decode` takes, and a picture of one is what --from takes
    run("decode", bundle, tmp_path / "shards" / "00002.npz", "-o", tmp_path / "decoded")
    run("generate", bundle, "-o", tmp_path / "again.png", "--from", tmp_path / "pictures" / "00002" / "7-00004.png")


def test_an_interrupted_job(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["generate", bundle, "-o", tmp_path, "-n", "6", "--shard-size", "2"]
    real = making.encode_png

    def interrupted(image: np.ndarray, metadata: dict[str, str]) -> bytes:
        if '"picture":3' in metadata["trt-vqgan"]:
            raise KeyboardInterrupt
        return real(image, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(making, "encode_png", interrupted)
        assert "interrupted: 1 of 3 shards are in" in run(*command, status=130)
    assert json.loads(run(*command, "--json"))["shards_made"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "--workers is about a Ray cluster"),
        (["--codes-only"], "--codes-only is about shards"),
        (["--shard-size", "2", "--grid"], "--grid doesn't go with shards"),
        (["--ray", "local", "--npz", "a.npz"], "--npz doesn't go with shards"),
        (["--shard-size", "2", "--from", "a.png"], "--from doesn't go with shards"),
        (["--ray", "local", "--device", "cuda:0"], "--ray works on processors so far"),
        (["--ray", "local", "--backend", "tensorrt"], "--ray works on processors so far"),
    ],
)
def test_options_that_do_not_go_together(bundle: Path, tmp_path: Path, options: list[str], said: str) -> None:
    assert said in run("generate", bundle, "-o", tmp_path / "job", *options, status=2)
    assert not (tmp_path / "job").exists()


def test_without_ray(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("trt_vqgan.runtime.jobs.ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    line = run("generate", bundle, "-o", tmp_path / "job", "--ray", "local", status=1)
    assert line.count("\n") == 1
    assert "needs the package 'ray', which is not installed; `pip install 'trt-vqgan[ray]'` installs it" in line


def test_no_cluster_at_the_address(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray isn't installed; `pip install '.[ray]'` installs it")
    line = run("generate", bundle, "-o", tmp_path / "job", "--ray", "127.0.0.1:nonsense", status=1)
    assert "--ray 127.0.0.1:nonsense: no Ray cluster can be reached there" in line
