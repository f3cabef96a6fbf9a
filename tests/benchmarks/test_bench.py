"""A whole run: the report, its JSON, its tables, and how it ends."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks.tiny_models import ARRAY_BYTES, TINY, VQGAN_ONLY
from trt_vqgan.benchmarks import bench, markdown
from trt_vqgan.benchmarks.machine import describe_machine, describe_versions
from trt_vqgan.benchmarks.parity import judge
from trt_vqgan.benchmarks.report import Report, read_report, to_json
from trt_vqgan.benchmarks.subjects import BundleSubject, RandomSubject
from trt_vqgan.benchmarks.tables import COLUMNS, heading, markdown_table, text_table
from trt_vqgan.cli import main
from trt_vqgan.errors import ParityError, SpecError
from trt_vqgan.runtime.native.build import find_compiler
from trt_vqgan.spec import ModelSpec

STEP_ROWS = 5 if find_compiler() else 3
"""Of one batch: torch, and fp32 and int8 through ONNX Runtime and, where they can be built, our CPU kernels."""


def run(*specs: ModelSpec, what: tuple[str, ...] | None = None, baseline: bool = True) -> Report:
    subjects = [RandomSubject(s, name=f"m{i}", precisions=("fp32", "int8")) for i, s in enumerate(specs)]
    return bench.measure(
        subjects,
        what=what,
        batches=(1,),
        threads=1,
        repeats=1,
        baseline=baseline,
        say=lambda line: None,
        array_bytes=ARRAY_BYTES,
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return run(TINY, dataclasses.replace(TINY, permutation=tuple(range(63, -1, -1))), what=("decode", "step"))


def test_report(report: Report) -> None:
    assert report.broken == ()
    bench.check(report)
    # both models have the same VQGAN, which is measured once
    decoded = [(row.runner, row.precision) for row in report.rows if row.what == "decode"]
    assert len(set(decoded)) == len(decoded) >= 3
    assert [(row.what, row.model) for row in report.rows] == [("decode", "f2 16x16")] * len(decoded) + [
        ("step", model) for model in ("m0", "m1") for _ in range(STEP_ROWS)
    ]
    assert report.machine["threads"] == 1
    assert report.versions["torch"] is not None
    # of each model before and after 4 stretches of each runner
    assert report.read_bandwidth["n"] == 2 * (1 + 4 * STEP_ROWS)
    assert report.read_bandwidth["median_gb_per_s"] <= report.read_bandwidth["best_gb_per_s"]


def test_json_comes_back(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(report), encoding="utf-8")
    assert read_report(path) == report
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema=2), "schema is 2"),
        (lambda data: data.update(surprise=1), "surprise"),
        (lambda data: data.pop("machine"), "machine"),
        (lambda data: data["rows"][0]["latency"].pop("p99_ms"), "p99_ms"),
        (lambda data: data.update(rows=7), "no report"),
    ],
)
def test_json_of_another_form_is_refused(report: Report, tmp_path: Path, change: object, message: str) -> None:
    data = json.loads(to_json(report))
    change(data)  # type: ignore[operator]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        read_report(path)


def test_planted_fault_a_broken_row_fails_the_run(report: Report) -> None:
    row = dataclasses.replace(report.rows[-1], parity=judge("logits, max abs", 0.5, limit=1e-3))
    broken = dataclasses.replace(report, rows=(*report.rows, row))
    assert broken.broken == (row,)
    with pytest.raises(ParityError, match=r"step of m1.*found 0.5, wanted at most 0.001"):
        bench.check(broken)
    assert "BROKEN, limit 0.001" in text_table(broken.rows)


def test_tables(report: Report) -> None:
    lines = text_table(report.rows).splitlines()
    assert len(lines) == 1 + len(report.rows)
    assert lines[0].split("  ")[0] == "what"
    assert "GB/s of weights" in lines[-1]
    assert "% of what it reads" in lines[-1]
    cells = [line.strip("|").split("|") for line in markdown_table(report.rows).splitlines()]
    assert {len(line) for line in cells} == {len(COLUMNS)}
    assert len(cells) == 2 + len(report.rows)
    where, versions = heading(report).splitlines()
    assert report.machine["cpu"] in where
    assert "GB/s at best" in where
    assert "onnxruntime" in versions


def test_the_page_is_made_from_the_json(report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "cpu.json", tmp_path / "cpu.md"
    source.write_text(to_json(report), encoding="utf-8")
    assert markdown.main([str(source), str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert "`cpu.json`" in text
    assert text.count("| step | m1 |") == STEP_ROWS
    assert markdown.main([str(tmp_path / "none.json"), str(target)]) == 1
    assert "none.json" in capsys.readouterr().err
    assert markdown.main([]) == 2


def test_the_machine_is_described() -> None:
    machine = describe_machine(threads=3)
    assert machine["threads"] == 3
    assert machine["cpu"]
    assert describe_versions()["trt-vqgan"]


def test_parts_that_a_model_lacks() -> None:
    assert bench._parts_of(VQGAN_ONLY, None) == ["encode", "decode"]
    with pytest.raises(SpecError, match="'step' can't be measured"):
        bench._parts_of(VQGAN_ONLY, ["step"])
    assert bench._parts_of(TINY, ["step", "encode"]) == ["encode", "step"]
    with pytest.raises(SpecError, match="no part"):
        bench._parts_of(TINY, [])


@pytest.mark.parametrize(("batches", "repeats"), [((), 1), ((0,), 1), ((1,), 0)])
def test_numbers_out_of_range(batches: tuple[int, ...], repeats: int) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        bench.run(shapes=[(1, 32)], batches=batches, repeats=repeats)


def test_the_command_line_names_the_same_parts() -> None:
    command = importlib.import_module("trt_vqgan.cli.bench")
    assert tuple(bench.PARTS) == command.PARTS
    assert bench.PRECISIONS == command.PRECISIONS


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject = RandomSubject(TINY, name="tiny", precisions=("fp32",))
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    subject.bundle("fp32").rename(folder)
    subject.close()
    return folder


def test_command_on_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_bundle), "--what", "prefill,encode", "--batch", "2", "--repeats", "1", "--threads", "1"]
    result = CliRunner().invoke(main, ["bench", *arguments, "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[3].startswith("what")
    assert "bench: tiny prefill batch 2" in result.stderr
    report = read_report(tmp_path / "r.json")
    assert [(row.what, row.runner, row.batch) for row in report.rows if row.runner != "native"] == [
        ("encode", "torch", 1),
        ("encode", "trt-vqgan", 1),
        ("prefill", "torch", 2),
        ("prefill", "trt-vqgan", 2),
    ]
    assert report.rows[1].parity is None  # torch's weights were others
    result = CliRunner().invoke(main, ["bench", *arguments, "--no-baseline", "--json", "-"])
    assert result.exit_code == 0
    assert {row["runner"] for row in json.loads(result.stdout)["rows"]} <= {"native", "trt-vqgan"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundle", "--precision", "int8"], "--precision goes with --shape"),
        (["--shape", "1x32", "--against", "run"], "--against goes with a BUNDLE"),
        (["--shape", "1x32", "--shape", "1x32"], "twice"),
        (["--shape", "1x32", "--precision", "fp64"], "'fp64'"),
        (["--shape", "1x32", "--batch", "1,0"], "1,0"),
        (["--shape", "1x32", "--json", "/nowhere/at/all.json"], "/nowhere/at/all.json, wanted a file name in a folder"),
        (["--shape", "1x32", "--json", "."], "is a folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("baseline", [True, False])
def test_torch_is_needed_for_the_baseline_only(tiny_bundle: Path, baseline: bool) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'yaml', 'safetensors']))\n"
        "from trt_vqgan.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["bench", str(tiny_bundle), "--what", "step,decode", "--batch", "1", "--repeats", "1", "--threads", "1"]
    if not baseline:
        arguments.append("--no-baseline")
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if baseline:
        assert found.returncode == 1
        assert "trt-vqgan[export]" in found.stderr
        assert "--no-baseline" in found.stderr
        assert "Traceback" not in found.stderr
    else:
        assert found.returncode == 0, found.stderr
        assert "codes/s" in found.stdout


def test_a_bundle_is_measured_with_the_weights_of_its_checkpoint(tiny_bundle: Path) -> None:
    from trt_vqgan.benchmarks.random_models import RandomWeights

    for seed, ok in ((0, True), (1, False)):
        subject = BundleSubject(tiny_bundle, weights=RandomWeights(TINY, seed=seed))
        report = bench.measure(
            [subject],
            what=("step",),
            batches=(1,),
            threads=1,
            repeats=1,
            baseline=True,
            say=lambda line: None,
            array_bytes=ARRAY_BYTES,
        )
        assert {row.parity.ok for row in report.rows if row.parity is not None} == {ok}
