"""Load on a server: its figures are of pictures that are right, and a soak finds what is lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` isn't installed")

from trt_vqgan.benchmarks.serving import soak as soak_module
from trt_vqgan.benchmarks.serving.__main__ import main, table
from trt_vqgan.benchmarks.serving.clients import Asked, check_codes, load_of
from trt_vqgan.benchmarks.serving.server_process import Answer, Client, ServerProcess
from trt_vqgan.benchmarks.serving.soak import Tally, soak
from trt_vqgan.errors import BundleError, ParityError
from trt_vqgan.runtime.pipeline import load


def test_a_short_measurement(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_file = tmp_path / "serving.json"
    options = ["--backend", "onnxruntime", "--seconds", "0.1", "--rounds", "1", "--clients", "1", "4", "--threads", "2"]
    assert main([str(demo_bundle), *options, "--json", str(report_file)]) == 0
    report = json.loads(report_file.read_text())
    assert [(row["clients"], row["threads"], row["pictures"]) for row in report["rows"]] == [
        (1, 2, False), (4, 2, False), (1, 2, True),
    ]  # fmt: skip
    assert report["codes_checked_of_pictures"] >= 3
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in report["rows"])
    assert capsys.readouterr().out.strip() == table(report)


def test_wrong_codes_are_noticed(demo_bundle: Path) -> None:
    """A planted fault: one code of one answer."""
    with load(demo_bundle, backend="onnxruntime") as pipeline:
        codes = pipeline.generate(n=1, class_id=1, seed=2).codes[0]
        asked = Asked(class_id=1, seed=2, codes=codes, seconds=0.5, ended=1.0)
        assert check_codes(pipeline, [asked], samples=3) == 1
        wrong = dataclasses.replace(asked, codes=np.where(np.arange(256).reshape(16, 16) == 9, codes ^ 1, codes))
        with pytest.raises(ParityError, match=r"other codes in a crowd than alone \(1 of 256 differ\)"):
            check_codes(pipeline, [asked, wrong], samples=3)


def test_a_load_is_all_codes_over_all_time() -> None:
    asked = [
        Asked(class_id=0, seed=i, codes=np.zeros((16, 16), np.int64), seconds=0.1 * (i + 1), ended=1.0)
        for i in range(4)
    ]
    found = load_of(asked, 2.0, clients=2, threads=2, pictures=False)
    assert (found.codes_per_s, found.answers, round(found.p50_ms)) == (512, 4, 250)


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="server: did not start"):
        ServerProcess(tmp_path / "none")


def test_a_short_soak(demo_bundle: Path) -> None:
    found = soak(demo_bundle, seconds=10, clients=6, backend="onnxruntime")
    assert found.problems == []
    assert found.abandoned
    assert sum(found.answers.values()) > 10


@pytest.mark.slow
def test_memory_is_flat_for_ten_minutes(demo_bundle: Path) -> None:
    found = soak(demo_bundle, seconds=600, clients=12)
    print(json.dumps(dataclasses.asdict(found)))
    assert found.problems == []


def test_a_soak_notices_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault each: pictures that never ended, one that still runs, and files that stay open."""
    metrics = {
        "trt_vqgan_requests_under_way": 0.0,
        "trt_vqgan_running_pictures": 1.0,
        "trt_vqgan_queue_pictures": 0.0,
        "trt_vqgan_pictures_accepted_total": 9.0,
    } | {
        f'trt_vqgan_pictures_total{{outcome="{name}"}}': 2.0 for name in ("finished", "cancelled", "overdue", "failed")
    }

    class Losing:
        port = 1

        def metrics(self, client: Any) -> dict[str, float]:
            return metrics

        def open_files(self) -> int:
            return 50

    monkeypatch.setattr(soak_module, "SETTLE_S", 0.0)
    found = soak_module._settled(Losing(), 20)  # type: ignore[arg-type]
    assert found == [
        "running_pictures: 1 long after the last request",
        "open files: 20 at first, 50 at the end",
        "lost: 9 pictures were accepted, 8 ended",
        "some pictures failed",
    ]


def test_a_wrong_status_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    monkeypatch.setattr(Client, "post", lambda *_, **__: Answer(status=500, body=b"oh", seconds=0.1))
    mixed = soak_module._Mixed(1, tally, 0)
    mixed._codes()
    assert tally.wrong == ["codes: answered 500 b'oh', wanted [200, 429]"]
