"""Wrong arguments are told before any work, in one line with exit status 2; missing things with 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from trt_vqgan.cli import main
from trt_vqgan.cli.conditions import read_codes
from trt_vqgan.cli.outputs import picture_paths, unique_stems
from trt_vqgan.errors import ConditionError
from trt_vqgan.runtime.images import write_png

COMMANDS = [
    "generate",
    "reconstruct",
    "encode",
    "decode",
    "score",
    "info",
    "export",
    "verify",
    "build",
    "export-triton",
    "serve",
    "bench",
]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_error_line(result: Result) -> str:
    assert result.stderr.startswith("trt-vqgan: error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_every_command_has_help() -> None:
    assert list(main.commands) == COMMANDS
    for command in COMMANDS:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: trt-vqgan {command}") or "Usage:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "'-o'"),
        (["generate", "-o", "out", "-n", "0"], "-n"),
        (["generate", "-o", "out", "-n", "two"], "-n"),
        (["generate", "-o", "out", "--seed", "-1"], "--seed"),
        (["generate", "-o", "out", "--temperature", "0"], "--temperature"),
        (["generate", "-o", "out", "--top-k", "0"], "--top-k"),
        (["generate", "-o", "out", "--top-p", "1.5"], "--top-p"),
        (["generate", "-o", "out", "--threads", "0"], "--threads"),
        (["generate", "-o", "out", "--backend", "abacus"], "--backend"),
        (["generate", "-o", "out", "--from", "a.png", "--seed", "0"], "leave --seed out"),
        (["generate", "-o", "out", "--from", "a.png", "--greedy"], "leave --greedy out"),
        (["generate", "-o", "out", "--from", "a.png", "--class", "0"], "leave --class out"),
        (["generate", "-o", "out", "--depth", "a.png", "--layout", "a.json"], "--depth and --layout both give"),
        (["generate", "-o", "out", "--class", "0", "--image", "a.png"], "both give the condition"),
        (["generate", "-o", "out", "--fit", "bend"], "--fit"),
        (["generate", "-o", "out", "--init", "a.png"], "--init needs --keep"),
        (["generate", "-o", "out", "--keep", "top"], "--keep is about a picture"),
        (["generate", "-o", "out", "--paste"], "--paste is about a picture"),
        (["generate", "-o", "out", "--init", "a.png", "--resample", "0"], "--resample"),
        (["generate", "-o", "out", "--guidance", "-1"], "--guidance"),
        (["generate", "-o", "out", "--preview", "0"], "--preview"),
        (["generate", "-o", "out", "--from", "a.png", "--fit", "crop"], "leave --fit out"),
        (["generate", "-o", "out", "--from", "a.png", "--init", "a.png"], "leave --init out"),
        (["reconstruct", "bundle", "-o", "out"], "IMG..."),
        (["encode", "bundle", "a.png", "-o", "out.txt"], ".npz"),
        (["verify", "bundle"], "--against"),
        (["export", "run", "-o", "bundle", "--precision", "fp1"], "--precision"),
        (["bench", "--shape", "12"], "LAYERSxWIDTH"),
        (["bench", "--what", "encode,lunch"], "'lunch'"),
        (["bench", "bundle", "--shape", "12x768"], "choose one"),
        (["paint"], "paint"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in one_error_line(result)


def test_no_arguments_shows_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize("command", ["generate", "reconstruct", "encode", "score", "info"])
def test_missing_bundle(tmp_path: Path, command: str) -> None:
    write_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    rest: list[str | Path] = [tmp_path / "a.png"] if command not in ("generate", "info") else []
    rest += (
        [] if command in ("score", "info") else ["-o", tmp_path / "out.npz" if command == "encode" else tmp_path / "o"]
    )
    result = run(command, tmp_path / "nothing", *rest)
    assert result.exit_code == 1
    assert "nothing" in one_error_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_missing_picture(tmp_path: Path) -> None:
    result = run("score", tmp_path, tmp_path / "none.png")
    assert result.exit_code == 1
    assert "none.png: no such file" in one_error_line(result)
    result = run("generate", "-o", tmp_path / "out", "--from", tmp_path / "none.png")
    assert result.exit_code == 1
    assert "none.png: no such file" in one_error_line(result)


def test_picture_paths(tmp_path: Path) -> None:
    assert picture_paths(tmp_path / "out", ["a", "b"]) == [tmp_path / "out" / "a.png", tmp_path / "out" / "b.png"]
    assert picture_paths(tmp_path / "x.PNG", ["a"]) == [tmp_path / "x.PNG"]
    with pytest.raises(click.UsageError, match="names one picture, but there are 2"):
        picture_paths(tmp_path / "x.png", ["a", "b"])
    (tmp_path / "file").touch()
    with pytest.raises(click.UsageError, match="is a file"):
        picture_paths(tmp_path / "file", ["a"])


def test_equal_names_get_numbers() -> None:
    names = unique_stems([Path("a.png"), Path("x/a.jpg"), Path("a-2.png"), Path("b.png")])
    assert len(set(names)) == 4
    assert names[:2] == ["a", "a-2"]


def test_codes_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, codes=np.ones((2, 3), np.uint8))
    assert read_codes(path).tolist() == [[1, 1, 1]] * 2
    for wrong, message in (
        ({"other": np.ones((2, 3), int)}, "holds other, wanted condition_codes or codes"),
        ({"codes": np.ones((2, 3))}, "float64"),
        ({"codes": np.ones(3, int)}, "shape"),
        ({"codes": np.ones((0, 3), int)}, "shape"),
        ({"codes": np.array([[{}]])}, "can't be read"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(ConditionError, match=message):
            read_codes(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ConditionError, match="can't be read"):
        read_codes(path)
    with pytest.raises(ConditionError, match="no such file"):
        read_codes(tmp_path / "none.npz")


def modules_after(*arguments: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after running ``arguments``."""
    program = "import sys\n" + arguments[0] + "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light() -> None:
    loaded = modules_after("import trt_vqgan; trt_vqgan.errors")
    assert not loaded & {"numpy", "torch", "onnx", "onnxruntime", "PIL", "click", "tqdm"}


def test_help_is_light() -> None:
    loaded = modules_after(
        "import contextlib, trt_vqgan.cli as c\nwith contextlib.suppress(SystemExit): c.main(['generate', '--help'])"
    )
    assert "click" in loaded
    assert not loaded & {"numpy", "torch", "onnx", "onnxruntime", "PIL", "tqdm"}
