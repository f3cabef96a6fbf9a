"""``python -m trt_vqgan.benchmarks.markdown cpu.json cpu.md``: the page of a report, generated from its JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.benchmarks.report import Report, read_report
from trt_vqgan.benchmarks.tables import heading, markdown_table
from trt_vqgan.errors import TrtVqganError


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
    if len(arguments) != 2:
        print("usage: python -m trt_vqgan.benchmarks.markdown REPORT.json PAGE.md", file=sys.stderr)
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    try:
        write_bytes(target, page(read_report(source), source=source.name).encode())
    except (TrtVqganError, OSError) as error:
        print(f"markdown: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
