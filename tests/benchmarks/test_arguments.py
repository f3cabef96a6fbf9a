"""Wrong arguments of the benchmarks' own commands end in one line and status 2, before anything is measured."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path

import pytest

from trt_vqgan.benchmarks.arguments import check_writable
from trt_vqgan.errors import SpecError

WRONG = [
    ("peers.__main__", ["--json", "x.json", "--shape", "foo"], "'foo' is no LAYERSxWIDTH"),
    ("peers.__main__", ["--json", "x.json", "--shape", "0x64"], "'0x64' is no LAYERSxWIDTH"),
    ("peers.__main__", ["--json", "x.json", "--batch", "0"], "'0' is no number of at least 1"),
    ("peers.__main__", ["--json", "x.json", "--repeats", "-1"], "'-1' is no number of at least 1"),
    ("mixtures", ["--folder", "f", "--shape", "12"], "'12' is no LAYERSxWIDTH"),
    ("mixtures", ["--folder", "f", "--shape", "2x64", "--steps", "many"], "'many' is no number of at least 1"),
    ("choice_cost", ["x768"], "'x768' is no LAYERSxWIDTH"),
]


WRITING = [
    ("peers.__main__", "--json"),
    ("growth", "--json"),
    ("decode_sizes", "--json"),
    ("serving.__main__", "--json"),
    ("serving.__main__", "--plot"),
    ("window_shift", "--picture"),
    ("scaling", "--plot"),
]


class RunError(Exception):
    """A run began."""


@pytest.mark.parametrize(("module", "arguments", "said"), WRONG, ids=str)
def test_wrong_arguments(module: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"trt_vqgan.benchmarks.{module}").main
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("module", "option"), WRITING, ids=str)
@pytest.mark.parametrize("path", ["missing/report", ".", "file/report"])
def test_a_file_that_cant_be_written(
    module: str,
    option: str,
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = importlib.import_module(f"trt_vqgan.benchmarks.{module}")

    def begin(*values: object, **names: object) -> None:
        raise RunError

    for begins in ("run", "measure", "table"):
        monkeypatch.setattr(command, begins, begin, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        command.main([option, path])
    assert ended.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(RunError):
        command.main([option, "report"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_nothing_is_written_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "report"
    assert check_writable(file) == file
    assert not list(tmp_path.iterdir())
    file.write_text("of the last run")
    assert check_writable(file) == file
    assert file.read_text() == "of the last run"


@pytest.mark.skipif(os.name != "posix", reason="folders of other systems have no such permissions")
def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    """Root may write anywhere but into what the kernel makes up."""
    folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SpecError, match="a folder that can be written to"):
        check_writable(folder / "report")
    tmp_path.chmod(stat.S_IRWXU)
