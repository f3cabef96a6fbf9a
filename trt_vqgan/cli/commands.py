"""How every command ends: an exit status, and for an error one line on standard error."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from trt_vqgan.errors import TrtVqganError

FAILED = 1
WRONG_ARGUMENTS = 2
INTERRUPTED = 130

debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


class Interrupted(Exception):
    """Ctrl-C came; the message says what is left of the work."""


class Commands(click.Group):
    """A group whose commands are listed as they were added, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order of their help."""
        return list(self.commands)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and leave with its exit status; click's own endings would print more than one line."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            status = self._run(arguments, prog_name or "trt-vqgan", extra)
        except BaseException as error:
            if "--debug" in arguments and not isinstance(error, click.ClickException):
                raise
            status, line = _ending(error)
            with contextlib.suppress(OSError):
                if isinstance(error, click.exceptions.NoArgsIsHelpError):
                    click.echo(error.format_message(), err=True)
                elif line:
                    click.echo(" ".join(line.split()), err=True)
        sys.exit(status)

    def _run(self, arguments: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        extra.pop("standalone_mode", None)
        extra.pop("complete_var", None)
        extra.pop("windows_expand_args", None)
        self._main_shell_completion(extra, prog_name)
        try:
            with self.make_context(prog_name, arguments, **extra) as context:
                self.invoke(context)
            # A full disk or a closed pipe shows when the buffer is written, which must not be after this.
            sys.stdout.flush()
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        return 0


def _ending(error: BaseException) -> tuple[int, str]:
    """Return exit status and line for an error; no line for a closed pipe."""
    prefix = "trt-vqgan: error: "
    if isinstance(error, click.UsageError):
        place = error.ctx.command_path if error.ctx is not None else "trt-vqgan"
        return WRONG_ARGUMENTS, f"{prefix}{error.format_message()} (`{place} --help` lists what it takes)"
    if isinstance(error, click.ClickException):
        return FAILED, prefix + error.format_message()
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED, "trt-vqgan: interrupted"
    if isinstance(error, Interrupted):
        return INTERRUPTED, f"trt-vqgan: interrupted: {error}"
    if isinstance(error, TrtVqganError):
        return FAILED, prefix + str(error)
    if isinstance(error, BrokenPipeError):
        # The reader has gone: nobody wants the rest. What the buffer still holds must not fail at exit either.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED, ""
    if isinstance(error, OSError):
        return FAILED, prefix + _of_system(error)
    if isinstance(error, MemoryError):
        return FAILED, f"{prefix}out of memory {error}; give a smaller --batch-size or a smaller picture"
    if isinstance(error, Exception):
        return FAILED, f"{prefix}unexpected {type(error).__name__}: {error}; --debug shows where, please report it"
    raise error


def _of_system(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename is not None else ""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}the disk is full ({what}); free some space or write elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}not allowed to write or read here ({what}); choose another place"
    return f"{place}{what}"
