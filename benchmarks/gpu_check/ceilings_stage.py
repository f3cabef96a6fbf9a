"""This device's limits: what the floors of all measurements are counted from."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from trt_vqgan.benchmarks.gpu_check.open_gpu import need_torch
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.errors import BackendUnavailableError, BuildError, CudaError
from trt_vqgan.kernels.building import find_nvcc

SOURCE = Path(__file__).resolve().parent / "ceilings.cu"
MATRIX = 8192


def run(records: Records, settings: Settings) -> None:
    """Measure each; they don't need each other."""
    with records.part("fp16 matrix product"):
        records.facts("ceilings", fp16=_matrix_product(settings.gpu))
    with records.part("ceilings program"), tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for name, value in run_program(build_program(Path(folder) / "ceilings"), settings.gpu).items():
            records.facts("ceilings", **{name: value})


def build_program(target: Path, *, architecture: str = "native") -> Path:
    """Compile `SOURCE` with nvcc.

    Raises
    ------
    BackendUnavailableError : nvcc isn't there.
    BuildError : it refused the source.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BackendUnavailableError("nvcc is not on this machine; it compiles the program that measures ceilings")
    command = [nvcc, "-std=c++17", "-O3", f"-arch={architecture}", str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"nvcc can't compile {SOURCE.name}: {done.stderr[-400:]}")
    return target


def run_program(program: Path, gpu: int) -> dict[str, float]:
    """Return what the compiled program measured, by the report's names.

    Raises
    ------
    CudaError : it failed; carries its last line.
    """
    done = subprocess.run([str(program), str(gpu)], capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CudaError(f"the program that measures ceilings failed: {told[-1] if told else done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _matrix_product(gpu: int) -> float:
    """Return TFLOP/s of torch's product of two large float16 matrices."""
    need_torch()
    import torch

    from trt_vqgan.benchmarks.gpu_check.gpu_timer import torch_times

    with torch.cuda.device(gpu):
        a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.float16) for _ in range(2))
        out = torch.empty_like(a)
        seconds = sorted(torch_times([lambda: torch.matmul(a, b, out=out)], repeats=20))
    return 2 * MATRIX**3 / seconds[len(seconds) // 2] / 1e12
