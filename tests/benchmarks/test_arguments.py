"""Wrong arguments of the benchmarks' own commands end in one line and status 2, before anything is measured."""

from __future__ import annotations

import importlib

import pytest

WRONG = [
    ("peers.__main__", ["--json", "x.json", "--shape", "foo"], "'foo' is no LAYERSxWIDTH"),
    ("peers.__main__", ["--json", "x.json", "--shape", "0x64"], "'0x64' is no LAYERSxWIDTH"),
    ("peers.__main__", ["--json", "x.json", "--batch", "0"], "'0' is no number of at least 1"),
    ("peers.__main__", ["--json", "x.json", "--repeats", "-1"], "'-1' is no number of at least 1"),
    ("mixtures", ["--folder", "f", "--shape", "12"], "'12' is no LAYERSxWIDTH"),
    ("mixtures", ["--folder", "f", "--shape", "2x64", "--steps", "many"], "'many' is no number of at least 1"),
    ("choice_cost", ["x768"], "'x768' is no LAYERSxWIDTH"),
]


@pytest.mark.parametrize(("module", "arguments", "said"), WRONG, ids=str)
def test_wrong_arguments(module: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"trt_vqgan.benchmarks.{module}").main
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
