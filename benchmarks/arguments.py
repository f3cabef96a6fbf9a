"""Arguments that benchmarks' own commands share; what is wrong with one is said in a line, with status 2."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from trt_vqgan.benchmarks.shapes import parse_shape
from trt_vqgan.errors import SpecError


def shape_argument(text: str) -> tuple[int, int]:
    """Return (layers, width) of "12x768"."""
    try:
        return parse_shape(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file_argument(text: str) -> Path:
    """Return the path of a file that can be written; told before a run, which may take long."""
    try:
        return check_writable(Path(text))
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_writable(path: Path) -> Path:
    """Return ``path``, of which nothing is written yet; what is there stays.

    Raises
    ------
    SpecError : it is a folder, a device that takes nothing, or lies in no folder that takes a new file.
    """
    try:
        if path.is_dir():
            raise SpecError(f"{path} is a folder, wanted a file name")
        if path.exists() and not path.is_file():  # a device or a pipe
            if not os.access(path, os.W_OK):
                raise SpecError(f"{path} can't be written to")
            return path
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        wanted = f"wanted a file name in a folder that can be written to ({error.strerror})"
        raise SpecError(f"found {path}, {wanted}") from None


def count_argument(text: str) -> int:
    """Return a number that is at least 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)
