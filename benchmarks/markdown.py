"""``python -m trt_vqgan.benchmarks.markdown cpu.json cpu.md``: the page of a report, generated from its JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.tables import heading, markdown_table
from trt_vqgan.errors import TrtVqganError


class MakePage(Protocol):
    """Returns a report as Markdown."""

    def __call__(self, report: Report, *, source: str) -> str:
        """``source`` is the JSON file's name."""


def page(report: Report, *, source: str) -> str:
    """Return the report as a Markdown page that names the JSON file ``source`` it comes from."""
    where, versions = heading(report).strip().split("\n")
    commit = report.commit or "not known"
    return f"""# Speed and memory

Generated from `{source}`; [method.md](method.md) says what is measured and how.

- Command: `{report.command}`
- Commit: {commit}, {report.started}
- Machine: {where}
- Versions: {versions}

{markdown_table(report.rows)}"""


def main(arguments: list[str]) -> int:
    """Write the page; return the exit status."""
    return write_page(arguments, page, module="trt_vqgan.benchmarks.markdown")


def write_page(arguments: list[str], make: MakePage, *, module: str) -> int:
    """Write the page that ``make`` makes of a report; return the exit status.

    Parameters
    ----------
    arguments : the report's path and the page's.
    module : that is run, for messages.
    """
    if len(arguments) != 2:
        print(f"usage: python -m {module} REPORT.json PAGE.md", file=sys.stderr)
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    try:
        write_bytes(target, make(read_report(source), source=source.name).encode())
    except (TrtVqganError, OSError) as error:
        print(f"{module.rpartition('.')[2]}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
