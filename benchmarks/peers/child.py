"""The process of one runtime: ``python -m trt_vqgan.benchmarks.peers.child prepare`` or ``… draw``.

Its job comes as the first line of standard input. ``prepare`` ends when the files are written. ``draw`` answers with a
line when it is ready, and with one to each line ``[batch, count]`` that follows; it sleeps between them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from trt_vqgan.benchmarks.peers.job import job_from_json


def main(arguments: list[str]) -> None:
    """Do the job that standard input says."""
    # what the runtimes print must not come between the answers
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def answer(found: dict[str, Any]) -> None:
            answers.write(json.dumps(found) + "\n")
            answers.flush()

        job = job_from_json(sys.stdin.readline())
        runtime = importlib.import_module(job.module)
        if arguments == ["prepare"]:
            runtime.prepare(job)
            answer({})
            return
        drawer = runtime.open_drawer(job)
        answer({"runner": drawer.runner})
        for line in iter(sys.stdin.readline, ""):
            batch, count = json.loads(line)
            cpu, start = time.process_time(), time.perf_counter()
            codes = drawer.draw(batch, count)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            answer({"seconds": seconds, "cpu_seconds": cpu_seconds, "codes": codes.tolist()})


if __name__ == "__main__":
    main(sys.argv[1:])
