"""The command line ``trt-vqgan``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    raise SystemExit("trt-vqgan: error: the command line is not written yet")
