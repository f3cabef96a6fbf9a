"""The process of one stage: ``python -m trt_vqgan.benchmarks.gpu_check.child STAGE RECORDS``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.errors import BackendUnavailableError, MissingDependencyError

SKIPPED = 3
"""Exit status of a stage that was left out as a whole."""


def main(arguments: list[str]) -> int:
    """Run one stage and return 0, or `SKIPPED` where this machine can't run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("records", type=Path)
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--ceilings", default="{}")
    given = parser.parse_args(arguments)
    records = Records(given.records, ceilings=json.loads(given.ceilings))
    stage = importlib.import_module(f"trt_vqgan.benchmarks.gpu_check.{given.stage}_stage")
    try:
        stage.run(records, Settings(**json.loads(given.settings)))
    except (BackendUnavailableError, MissingDependencyError, ImportError) as error:
        records.skip(given.stage, str(error))
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
