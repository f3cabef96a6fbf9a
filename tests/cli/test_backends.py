"""``--backend`` and ``--device`` on a machine that can't run them: exit 1, one line that says what works instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_vqgan.cli import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "cuda"], ["backend cuda can't run here", "no graphs for GPUs", "runs this bundle on the CPU"]),
        (["--backend", "tensorrt"], ["backend tensorrt can't run here", "--backend onnxruntime --device cpu"]),
        (["--device", "cuda:0"], ["device cuda:0 can't run this bundle", "--backend onnxruntime --device cpu"]),
        (["--backend", "cuda", "--device", "cpu"], ["found device cpu, wanted cuda:0"]),
        (["--device", "tpu"], ["found 'tpu', wanted cpu, cuda or cuda:N"]),
    ],
)
def test_one_line(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["generate", str(demo_bundle), "-o", str(tmp_path / "out"), *options])
    assert left.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("trt-vqgan: error: ")
    assert printed.count("\n") == 1
    for word in words:
        assert word in printed
    assert not (tmp_path / "out").exists()
