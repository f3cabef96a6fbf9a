"""Every command ends with an exit status and, for an error, one line; the traceback only with --debug."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner

from trt_vqgan.cli.commands import Commands, Interrupted, debug_option
from trt_vqgan.errors import BundleError

ENDINGS = [
    (BundleError("no bundle:\n  gone"), 1, "trt-vqgan: error: no bundle: gone"),
    (OSError(errno.ENOSPC, "No space left on device", "out/a.png"), 1, "out/a.png: the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "out: not allowed to write or read here"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 1, "x: No such file or directory"),
    (MemoryError(), 1, "out of memory"),
    (ValueError("strange"), 1, "unexpected ValueError: strange"),
    (click.UsageError("choose one"), 2, "trt-vqgan: error: choose one"),
    (click.ClickException("failed"), 1, "trt-vqgan: error: failed"),
    (KeyboardInterrupt(), 130, "trt-vqgan: interrupted"),
    (Interrupted("2 of 8 pictures are written to out"), 130, "interrupted: 2 of 8 pictures"),
]


def group_that_raises(error: BaseException) -> click.Group:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    @debug_option
    def fail() -> None:
        raise error

    return group


@pytest.mark.parametrize(("error", "status", "line"), ENDINGS, ids=lambda value: type(value).__name__)
def test_one_line_and_a_status(error: BaseException, status: int, line: str) -> None:
    result = CliRunner().invoke(group_that_raises(error), ["fail"])
    assert result.exit_code == status
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_closed_pipe_is_silent() -> None:
    result = CliRunner().invoke(group_that_raises(BrokenPipeError(errno.EPIPE, "Broken pipe")), ["fail"])
    assert (result.exit_code, result.stderr) == (1, "")


def test_debug_shows_the_error_itself() -> None:
    error = BundleError("no bundle")
    result = CliRunner().invoke(group_that_raises(error), ["fail", "--debug"])
    assert result.exception is error


def test_success_is_zero() -> None:
    result = CliRunner().invoke(group_that_raises(ValueError()), ["fail", "--help"])
    assert result.exit_code == 0
