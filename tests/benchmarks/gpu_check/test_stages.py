"""Running stages: their time limits, their deaths, and the report after each."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trt_vqgan.benchmarks.gpu_check import command
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.benchmarks.gpu_check.report import read_report
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.gpu_check.stage import STAGES, Outcome, Stage, run_stage
from trt_vqgan.errors import SpecError

STAGE_PROGRAM = """
    import json, os, signal, subprocess, sys, time
    name, path = sys.argv[1:3]
    def write(**record):
        with open(path, "a") as file: file.write(json.dumps(record) + chr(10))
    write(kind="checks", name=f"{name} began", ok=True, detail="")
    if name == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        write(kind="answers", child=str(child.pid))
        time.sleep(600)
    if name == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "fails":
        with open(path, "a") as file: file.write('{"kind": "checks", "na')
        sys.exit("CudaError: out of luck")
    if name == "wrong":
        write(kind="checks", name="planted", ok=False, detail="2 is not 3")
    if name == "left_out":
        write(kind="skipped", name=name, reason="nothing of it is here")
        sys.exit(3)
    if name == "measures":
        write(kind="device", name="NVIDIA Test 9", sm=90)
        write(kind="ceilings", read=3000.0)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module whose process does what its stage's name says."""
    (tmp_path / "stage_program.py").write_text(textwrap.dedent(STAGE_PROGRAM))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stage_program"


def outcome_of(name: str, program: str, *, seconds: float = 60) -> Outcome:
    return run_stage(Stage(name=name, seconds=seconds), [], module=program)


def test_a_stage_that_hangs_is_ended_with_all_that_it_started(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is up as soon as it has written that it hangs, however slow this machine is."""
    wait = subprocess.Popen.wait

    def wait_until_it_hangs(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        while len(read_records(Path(process.args[4]))) < 2:  # type: ignore[index]
            assert process.poll() is None
            time.sleep(0.05)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_until_it_hangs)
    outcome = outcome_of("hangs", program)
    assert outcome.failure == "took longer than 60 s and was ended"
    assert outcome.records[0]["name"] == "hangs began"
    for _ in range(600):  # a killed process may take a moment to be gone
        if not is_running(outcome.records[1]["child"]):
            return
        time.sleep(0.05)
    pytest.fail("what the stage started still runs")


def is_running(process: str) -> bool:
    """Return whether a process exists and has not been killed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_stage_that_dies_keeps_what_it_wrote(program: str) -> None:
    outcome = outcome_of("dies", program)
    assert outcome.failure.startswith("was ended by SIGSEGV")
    assert [record["name"] for record in outcome.records] == ["dies began"]


def test_a_stage_that_fails_says_its_last_line(program: str) -> None:
    outcome = outcome_of("fails", program)
    assert outcome.failure == "ended with status 1; it said: CudaError: out of luck"
    assert len(outcome.records) == 1  # without the half line


def checked(names: Sequence[str], program: str, folder: Path, **options: Any) -> tuple[Any, Path, list[dict[str, Any]]]:
    """Run stages; also return what the file held when each began."""
    seen: list[dict[str, Any]] = []

    def run(stage: Stage, arguments: Sequence[str], *, seconds: float) -> Outcome:
        files = sorted(folder.glob("*.json"))
        assert len(files) <= 1
        seen.append(json.loads(files[0].read_text()) if files else {})
        return run_stage(stage, arguments, seconds=seconds, module=program)

    stages = [Stage(name=name, seconds=120) for name in names]
    report, path = command.check(
        stages, Settings(), commit="0123456789abcdef+changes", results=folder, run=run, say=lambda line: None, **options
    )
    return report, path, seen


def test_the_file_is_whole_after_each_stage(program: str, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    report, path, seen = checked(["fine", "measures", "dies", "wrong", "left_out"], program, folder)
    assert path.name == "nvidia-test-9-0123456789ab-changes.json"
    assert seen[0] == {}
    assert [len(each["checks"]) for each in seen[1:]] == [2, 4, 6, 9]
    assert seen[2]["ceilings"] == {"read": 3000.0}
    assert {check.name for check in report.failed} == {"stage dies", "planted"}
    assert [skipped.name for skipped in report.skipped] == ["left_out"]
    assert read_report(path) == report


def test_a_required_stage_may_not_be_left_out(program: str, tmp_path: Path) -> None:
    def run(stage: Stage, arguments: Sequence[str], *, seconds: float) -> Outcome:
        return run_stage(stage, arguments, seconds=seconds, module=program)

    stages = [Stage(name="left_out", seconds=20, required=True)]
    report, _ = command.check(stages, Settings(), commit=None, results=tmp_path, run=run, say=lambda line: None)
    assert [check.name for check in report.failed] == ["stage left_out"]


def test_stages_behind_the_end_are_skipped(program: str, tmp_path: Path) -> None:
    report, _, _ = checked(["fine", "fine"], program, tmp_path / "results", total_seconds=0.5)
    assert not report.checks
    assert {skipped.reason for skipped in report.skipped} == {"the 0 s of the run were over"}


def test_the_stages_exist_and_fit_ten_minutes() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert command.TOTAL_SECONDS < 600
    for name in names:
        source = Path(command.__file__).parent / f"{name}_stage.py"
        assert "def run(records: Records, settings: Settings" in source.read_text()


def test_without_a_gpu_one_line_and_status_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "probe", lambda: (0, "no GPU on this machine: none"))
    assert command.main([]) == 0
    assert "nothing was checked" in capsys.readouterr().out


@pytest.mark.parametrize(("planted", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_is_that_of_the_checks(
    planted: bool, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(stage: Stage, arguments: Sequence[str], *, seconds: float) -> Outcome:
        record = {"kind": "checks", "name": "planted", "ok": planted, "detail": "of this test"}
        return Outcome(records=(record,), failure="", seconds=0.0)

    monkeypatch.setattr(command, "probe", lambda: (1, "1 CUDA device(s) on this machine"))
    monkeypatch.setattr(command, "run_stage", run)
    assert command.main(["--results", str(tmp_path), "--stage", "kernels", "--commit", "abc"]) == status
    assert ("FAILED planted: of this test" in capsys.readouterr().out) == (not planted)
    assert (tmp_path / "gpu-abc.json").is_file()


def test_the_core_needs_neither_onnxruntime_nor_click(tmp_path: Path) -> None:
    """Stages import with everything absent that a machine for this check may lack; torch when times are measured."""
    blocked = (
        "onnxruntime",
        "onnx",
        "click",
        "tqdm",
        "PIL",
        "torch",
        "yaml",
        "safetensors",
        "tensorrt",
        "tensorrt_rtx",
    )
    stages = [f"trt_vqgan.benchmarks.gpu_check.{stage.name}_stage" for stage in STAGES]
    code = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked {{name}}", name=name)
sys.meta_path.insert(0, Blocked())
for name in {["trt_vqgan.benchmarks.gpu_check.command", *stages]!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stage_that_this_machine_cannot_run_says_why(tmp_path: Path) -> None:
    """The real child: no driver here, or no pycuda; on a GPU machine there is nothing to see."""
    outcome = run_stage(Stage(name="kernels", seconds=60), [])
    if not outcome.failure:
        pytest.skip("there is a GPU on this machine")
    assert outcome.failure.startswith("ended with status 3")
    assert outcome.records[0]["kind"] == "skipped"


def test_parts_fail_and_are_skipped_by_themselves(tmp_path: Path) -> None:
    records = Records(tmp_path / "records", ceilings={})
    with records.part("a"):
        raise ModuleNotFoundError("no torch")
    with records.part("b"):
        raise RuntimeError("boom\nsecond")
    found = read_records(tmp_path / "records")
    assert found[0] == {"kind": "skipped", "name": "a", "reason": "no torch"}
    assert found[1] == {"kind": "checks", "name": "b", "ok": False, "detail": "RuntimeError: boom second"}


def test_other_files_are_no_reports(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, match in (("[", "no report"), ('{"schema": 7}', "schema is 7"), ('{"schema": 1}', "no report")):
        path.write_text(text)
        with pytest.raises(SpecError, match=match):
            read_report(path)
