"""Arguments that benchmarks' own commands share; what is wrong with one is said in a line, with status 2."""

from __future__ import annotations

import argparse

from trt_vqgan.benchmarks.shapes import parse_shape
from trt_vqgan.errors import SpecError


def shape_argument(text: str) -> tuple[int, int]:
    """Return (layers, width) of "12x768"."""
    try:
        return parse_shape(text)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count_argument(text: str) -> int:
    """Return a number that is at least 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)
