"""``python -m trt_vqgan.benchmarks.peers.page peers.json peers.md``: the page of a report, generated from its JSON."""

from __future__ import annotations

import sys

from trt_vqgan.benchmarks.markdown import write_page
from trt_vqgan.benchmarks.report import Report
from trt_vqgan.benchmarks.tables import heading, markdown_table

_PICTURES = """256 codes a picture. Row `i` of a batch
  begins with token `i`, and the likeliest code is taken each time."""
_PREFILL = """The tokens of a prefill are random, the
  same in every turn; keys and values are kept, and the logits of all tokens computed."""


def page(report: Report, *, source: str) -> str:
    """Return the report as a Markdown page that names the JSON file ``source`` it comes from."""
    where, versions = heading(report).strip().split("\n")
    settings = report.settings
    ran = ", ".join(dict.fromkeys(f"{row.runner} {row.precision}" for row in report.rows))
    left_out = "".join(f"- {name}: {reason}\n" for name, reason in settings["left_out"].items()) or "- none\n"
    busiest = max((row.facts["others_busy"] for row in report.rows), default=0.0)
    if settings.get("prefill") is None:
        turn, of_codes, drawn = "picture", ", those of a whole picture by its codes", _PICTURES
    else:
        turn, of_codes, drawn = "prefill", "", _PREFILL
    return f"""# Other runtimes beside ours

Generated from `{source}`; `make bench-peers` measures all precisions.

- Command: `{report.command}`
- Commit: {report.commit or "not known"}, {report.started}
- Machine: {where}
- Versions: {versions}
- Measured: {ran}

Left out:

{left_out}
## How it is measured

- The model is one of [method.md](method.md): random weights, the same for all. {drawn}
- Each runtime in each precision has a process of its own, for each batch a new one, and the same number of threads, set
  as the runtime documents it and in `OMP_NUM_THREADS`. In one process their pools of threads disturb each other.
- Processes take turns of one {turn} of each row; who begins changes from round to round. Before each turn there is a
  pause of {1e3 * settings["pause_s"]:.0f} ms, because Intel's OpenMP spins for 200 ms, and the turn begins when no
  process computes any more. While one drew, the others together computed for at most {100 * busiest:.2g} % of the time,
  in ticks of the system.
- Models are converted before, in other processes, and are on disk before the first turn. One round of warming up isn't
  counted. Times are taken inside the process{of_codes}.
- `× torch`: median (lowest–highest) over rounds of torch's time over the runtime's; torch is in fp32 in every group.
- `what this machine reads`: the best of the samples after each round of a group, which are so few that where the rate
  of memory moves a runtime may pass them; bytes are those of our own form of the weights.
- `parity`: share of codes equal torch's. Exact runtimes in fp32 must have 0.9; with fewer bits greedy codes of random
  weights part at a near tie and stay apart.
- `native` and `ONNX Runtime` are this package's two ways on a CPU, by the graph that it exports.
- `onnxruntime-genai` runs a graph written for it as its model type `decoder`, with the operators that its own model
  builder writes for a CPU. Its 8- and 4-bit weights are quantised as in our exports; its embeddings stay in fp32.
- OpenVINO's `f32` and `bf16` are of its arithmetic and its cache. `int8_sym` and `int4_sym` are of weights only, as its
  companion NNCF makes them (a scale a row, or a block of 32); arithmetic and cache are as it chooses for the processor.
- llama.cpp's GPT-2 has the tanh form of GELU and a cache in float16. Its quantised weights are laid out anew for the
  processor, which is its default; with `no-repack` they are not.

## Results

{markdown_table(report.rows)}"""


def main(arguments: list[str]) -> int:
    """Write the page; return the exit status."""
    return write_page(arguments, page, module="trt_vqgan.benchmarks.peers.page")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
