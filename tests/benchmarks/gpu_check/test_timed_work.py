"""What is timed on a GPU, done once here: launches on the shim, torch's baselines on the processor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.gpu_check.test_kernel_checks import KernelDevice
from trt_vqgan.benchmarks.gpu_check import kernel_times_stage, step_times_stage
from trt_vqgan.benchmarks.gpu_check.capture_probes import small_engine
from trt_vqgan.benchmarks.gpu_check.capture_stage import ask
from trt_vqgan.benchmarks.gpu_check.ceilings_stage import build_program, run_program
from trt_vqgan.benchmarks.gpu_check.floors import Work
from trt_vqgan.benchmarks.gpu_check.kernel_times_stage import KernelTimes
from trt_vqgan.benchmarks.gpu_check.probe import probe
from trt_vqgan.benchmarks.gpu_check.records import Records, read_records
from trt_vqgan.benchmarks.gpu_check.sampler_launch import SamplerBuffers
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.gpu_check.step_times_stage import CODES, Shape, random_tensors, step_plan
from trt_vqgan.benchmarks.gpu_check.torch_models import StaticStep, draw, published_codes
from trt_vqgan.errors import BuildError, CudaError
from trt_vqgan.export.gpt_modules import GPT
from trt_vqgan.kernels.building import find_nvcc
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.spec import TransformerSpec
from trt_vqgan.tensorrt_package import RTX, find_tensorrt

SPEC = TransformerSpec(vocab_size=40, max_seq_len=3 + CODES, num_layers=2, num_heads=2, hidden_size=80)


class Once(KernelTimes):
    """Runs the first launches and the first baseline, and times nothing."""

    done: list[str]

    def _add(
        self,
        name: str,
        shape: str,
        launches: Sequence[Launch],
        work: Work,
        baseline: Sequence[Callable[[], object]],
        *,
        pieces: int | None = None,
    ) -> None:
        for launch in launches[: 3 if pieces else 1]:
            self._device.launch(launch)
        baseline[0]()
        assert work.bytes > 0
        self.done.append(name)


def test_every_timed_kernel_runs_and_so_does_its_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_times_stage, "L2_BYTES", 1 << 10)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, device: randn(*shape))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    times = Once(Records(tmp_path / "records", ceilings={}), KernelDevice(), shared_limit=99 << 10)
    times.done = []
    times.attention(2, heads=2, size=40, positions=70)
    times.dense(48, 64, 2)
    times.nearest(5, size=70, dim=32)
    times.sampling(100)
    times.pictures(batch=1, side=8)
    assert len(times.done) == 6


def test_the_sampler_draws_on_and_on() -> None:
    device = KernelDevice()
    buffers = SamplerBuffers(device, batch=2, vocabulary=50)
    for _ in range(3):
        device.launch(buffers.launch())
    codes = device.view(buffers._state.codes)
    assert ((codes[:, :3] >= 0) & (codes[:, :3] < 50)).all()
    np.testing.assert_array_equal(device.view(buffers._state.columns), [3, 3])


@pytest.mark.parametrize("shared", [False, True])
def test_a_timed_step_draws_in_the_middle_of_its_pictures(shared: bool) -> None:
    device = KernelDevice()
    shape = Shape(name="tiny", spec=SPEC, condition=3)
    tensors = random_tensors(SPEC)
    operations = CudaOperations(device, SPEC, tensors["tok_emb.weight"], tensors["pos_emb"])
    plan = step_plan(shape, device, operations, CudaExecutor(device, SPEC, tensors), batch=2, shared=shared)
    for _ in range(2):
        plan.step()
    codes = device.view(plan.state.codes)
    begin = CODES // 2 - 20
    assert (codes[:, begin : begin + 3] >= 0).all()
    assert (codes[:, begin + 3 :] < 0).all()
    np.testing.assert_array_equal(device.view(plan.state.lengths), [shape.condition + begin + 2] * 2)


def test_torch_s_static_step_is_its_published_one() -> None:
    """The faster baseline computes the same logits, so that it is a baseline."""
    torch.manual_seed(0)
    model = GPT(SPEC).eval()
    tokens = torch.randint(0, 40, (2, 9))
    with torch.no_grad():
        wanted, past = model.forward_with_past(tokens[:, :8], None)
        wanted, _ = model.forward_with_past(tokens[:, 8:], past)
    step = StaticStep(model, batch=2, capacity=20, position=8)
    for (keys, values), present in zip(step.caches, past[0], strict=True):
        keys[:, :, :8], values[:, :, :8] = present
    step.tokens.copy_(tokens[:, 8:])
    torch.testing.assert_close(step.logits(), wanted[:, 0], atol=1e-5, rtol=0)
    step()
    assert ((step.tokens >= 0) & (step.tokens < 40)).all()
    assert published_codes(model, batch=2, prefix=3, count=5).shape == (2, 5)
    assert (draw(torch.tensor([[0.0, 900.0]] * 3)) == 1).all()


def test_shapes_are_those_of_the_models() -> None:
    assert [shape.spec.head_size for shape in step_times_stage.SHAPES] == [32, 64, 64]
    assert [shape.mean_positions for shape in step_times_stage.SHAPES] == [129, 384, 129]


def test_the_ceilings_program_compiles(tmp_path: Path) -> None:
    if find_nvcc() is None:
        pytest.skip("nvcc is not on this machine")
    program = build_program(tmp_path / "ceilings", architecture="sm_90")
    if probe()[0] == 0:
        with pytest.raises(CudaError, match="the program that measures ceilings failed: .*ceilings.cu"):
            run_program(program, 0)
    assert shutil.which(str(program))


def test_a_small_engine_is_built_without_a_gpu() -> None:
    pytest.importorskip("tensorrt_rtx")
    tensorrt = find_tensorrt(RTX)
    assert len(small_engine(tensorrt, "sm80")) > 1000
    with pytest.raises(BuildError, match="sm90"):
        small_engine(tensorrt, "sm90")


def test_a_probe_that_cannot_run_here_is_skipped(tmp_path: Path) -> None:
    if probe()[0]:
        pytest.skip("there is a GPU on this machine")
    records = Records(tmp_path / "records", ceilings={})
    ask(records, "tensorrt_rtx_sm80", Settings())
    (found,) = read_records(tmp_path / "records")
    assert found["kind"] == "skipped"


def test_what_a_probe_says_is_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes its process with it."""

    class Ended:
        def __init__(self, status: int) -> None:
            self.returncode, self.stdout, self.stderr = status, "first\nlast line", ""

    for status, wanted in ((0, "yes: last line"), (1, "no: last line"), (-6, "the process ended with status -6")):
        path = tmp_path / str(status)

        def run(*command: Any, status: int = status, **options: Any) -> Ended:
            return Ended(status)

        monkeypatch.setattr("subprocess.run", run)
        ask(Records(path, ceilings={}), "tensorrt_capture", Settings())
        assert read_records(path)[0]["tensorrt_capture"].startswith(wanted)
