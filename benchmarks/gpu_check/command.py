"""The command line of gpu-check."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trt_vqgan.benchmarks.gpu_check.child import SKIPPED
from trt_vqgan.benchmarks.gpu_check.probe import probe
from trt_vqgan.benchmarks.gpu_check.report import Check, Report, Skipped, result_name
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.gpu_check.stage import STAGES, Outcome, Stage, run_stage
from trt_vqgan.benchmarks.machine import git_commit
from trt_vqgan.errors import TrtVqganError

TOTAL_SECONDS = 590.0

RunStage = Callable[..., Outcome]


def main(arguments: Sequence[str]) -> int:
    """Check the GPU and return 0; 1 where a check failed. Without a GPU, one line and 0."""
    given = _parser().parse_args(arguments)
    if given.prepare is not None:
        return _prepare(given.prepare)
    count, line = probe()
    print(line)
    if count == 0:
        print("gpu-check: nothing was checked, the GPU paths need a GPU")
        return 0
    settings = Settings(gpu=given.gpu, goldens=str(given.goldens), engine=str(given.engine or ""))
    wanted = [stage for stage in STAGES if given.stage is None or stage.name in given.stage]
    commit = given.commit or git_commit()
    report, path = check(wanted, settings, commit=commit, results=given.results)
    print(f"gpu-check: {len(report.checks)} checks, {len(report.failed)} failed; {path}")
    return 1 if report.failed else 0


def check(
    stages: Sequence[Stage],
    settings: Settings,
    *,
    commit: str | None,
    results: Path,
    total_seconds: float = TOTAL_SECONDS,
    run: RunStage | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Report, Path]:
    """Run stages one after the other and return the report and its file, which is written after each.

    Parameters
    ----------
    total_seconds : limit on all together; stages that don't begin within it are skipped.
    run : runs one; `run_stage` by default.
    """
    report = Report(commit=commit)
    path = results / result_name("gpu", commit)
    begin = time.monotonic()
    for stage in stages:
        left = total_seconds - (time.monotonic() - begin)
        if left < 1:
            report.skipped.append(Skipped(name=stage.name, reason=f"the {total_seconds:.0f} s of the run were over"))
            continue
        arguments = ["--settings", json.dumps(dataclasses.asdict(settings)), "--ceilings", json.dumps(report.ceilings)]
        outcome = (run or run_stage)(stage, arguments, seconds=left)
        for record in outcome.records:
            report.add(record)
        left_out = outcome.failure.startswith(f"ended with status {SKIPPED}")
        if left_out and not stage.required:
            say(f"{stage.name}: skipped")
        else:
            detail = outcome.failure or f"{outcome.seconds:.1f} s"
            report.checks.append(Check(name=f"stage {stage.name}", ok=not outcome.failure, detail=detail))
            say(f"{stage.name}: {detail}")
        if "name" in report.device:
            named = results / result_name(str(report.device["name"]), commit)
            if named != path:
                path.unlink(missing_ok=True)
                path = named
        report.write(path)
    for failed in report.failed:
        say(f"FAILED {failed.name}: {failed.detail}")
    return report, path


def _prepare(folder: Path) -> int:
    from trt_vqgan.benchmarks.gpu_check.golden_files import prepare

    try:
        names = prepare(folder)
    except TrtVqganError as error:
        print(f"gpu-check: {error}")
        return 1
    print(f"gpu-check: wrote {', '.join(names) or 'nothing'} to {folder}")
    return 0 if names else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trt_vqgan.benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder for the JSON")
    parser.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES], help="only these")
    parser.add_argument("--commit", help="of the source tree, where git is not there to say")
    parser.add_argument("--goldens", type=Path, default=Path(Settings.goldens), help="what --prepare wrote")
    parser.add_argument("--engine", type=Path, help="TensorRT-RTX engine to try to load; by default one is built")
    parser.add_argument(
        "--prepare",
        type=Path,
        metavar="FOLDER",
        help="write the golden models' weights, on any machine with torch and onnx",
    )
    return parser
