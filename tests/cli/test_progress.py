"""The bar shows codes a second and the time left at a terminal, and nothing elsewhere."""

from __future__ import annotations

import io

import pytest

from trt_vqgan.cli import progress as bar
from trt_vqgan.runtime.pipeline import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, quiet: bool, delay_seconds: float) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(bar, "DELAY_SECONDS", delay_seconds)
    monkeypatch.setattr(bar, "REDRAW_SECONDS", 0.0)
    with bar.CodesProgress(quiet=quiet) as progress:
        for done in range(0, 2001, 500):
            assert progress(Progress(done_codes=done, total_codes=2000, pictures_done=done // 1000)) is True
    return stream.getvalue()


def test_bar_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drive(Terminal(), monkeypatch, quiet=False, delay_seconds=0.0)
    assert "codes/s" in text
    assert "1 pictures" in text
    assert "1.50k/2.00k" in text
    assert "<" in text


def drive_pictures(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, quiet: bool, delay_seconds: float, total: int = 4
) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(bar, "DELAY_SECONDS", delay_seconds)
    monkeypatch.setattr(bar, "REDRAW_SECONDS", 0.0)
    with bar.PicturesProgress(total, quiet=quiet) as progress:
        for _ in range(total):
            progress.echo("a line")
            progress.finished()
    return stream.getvalue()


def test_bar_of_pictures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = drive_pictures(Terminal(), monkeypatch, quiet=False, delay_seconds=0.0)
    assert "2/4" in text
    assert "4/4" in text
    assert text.rstrip(" ").endswith("\r"), "nothing of the bar stays"
    assert capsys.readouterr().out == "a line\n" * 4


def test_silence_about_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive_pictures(io.StringIO(), monkeypatch, quiet=False, delay_seconds=0.0) == ""
    assert drive_pictures(Terminal(), monkeypatch, quiet=True, delay_seconds=0.0) == ""
    assert drive_pictures(Terminal(), monkeypatch, quiet=False, delay_seconds=1e9) == ""
    assert drive_pictures(Terminal(), monkeypatch, quiet=False, delay_seconds=0.0, total=1) == ""


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive(io.StringIO(), monkeypatch, quiet=False, delay_seconds=0.0) == ""
    assert drive(Terminal(), monkeypatch, quiet=True, delay_seconds=0.0) == ""
    assert drive(Terminal(), monkeypatch, quiet=False, delay_seconds=1e9).strip() == ""
