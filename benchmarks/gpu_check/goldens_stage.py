"""The driver on the GPU against what the published code computed in float32 from the golden checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.gpu_check.golden_files import GoldenModel, read_goldens
from trt_vqgan.benchmarks.gpu_check.open_gpu import open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.kernels.reference.decode_state import FREE
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.runtime.sampler import Sampling

HALF_LOGITS_RELATIVE = 1e-2
"""Error of float16 logits over the largest: that of GPU_FP16_LOGITS_RELATIVE in tests/tolerances.py. Not measured on a
GPU yet."""


def run(records: Records, settings: Settings) -> None:
    """Check each golden model that was carried here."""
    found = False
    for golden in read_goldens(Path(settings.goldens)):
        found = True
        with records.part(f"golden {golden.name}"), open_gpu(settings.gpu) as device:
            check_golden(records, golden, cuda_engine(golden, device), relative=HALF_LOGITS_RELATIVE)
            check_deterministic(records, golden, cuda_engine(golden, device, deterministic=True))
    if not found:
        records.skip("goldens", f"{settings.goldens} has none; --prepare writes it where torch and onnx are installed")


def cuda_engine(golden: GoldenModel, device: Device, *, deterministic: bool = False) -> DeviceEngine:
    """Return the driver of a golden model with the ``cuda`` executor."""
    embeddings = golden.tensors["tok_emb.weight"], golden.tensors["pos_emb"]
    operations = CudaOperations(device, golden.spec, *embeddings, deterministic=deterministic)
    executor = CudaExecutor(device, golden.spec, golden.tensors, deterministic=deterministic)
    return DeviceEngine(golden.spec, device, operations=operations, executor=executor, deterministic=deterministic)


def check_deterministic(records: Records, golden: GoldenModel, engine: DeviceEngine) -> None:
    """Compare the bits of a picture's logits alone with those beside 2, 7 and 10 others, in prefill and in steps."""
    known = np.concatenate([golden.arrays["c_indices"][0], golden.arrays["z_indices"][0]])
    steps, length = 3, len(known) // 2

    def logits_beside(others: int) -> npt.NDArray[np.float32]:
        tokens = np.stack([(known + row) % golden.spec.vocab_size for row in range(others + 1)])
        cache = engine.new_cache(batch=len(tokens), capacity=64 * others + len(known))
        found = [engine.prefill(cache, tokens[:, :length], rows=np.array([length - 1]))[0, 0]]
        stepper = engine.stepper(cache)
        for at in range(length, length + steps):
            found.append(stepper.step(tokens[:, at], np.full(len(tokens), at))[0])
        return np.stack(found)

    def bits_agree() -> str:
        alone = logits_beside(0)
        for others in (2, 7, 10):
            np.testing.assert_array_equal(logits_beside(others), alone, err_msg=f"beside {others} others")
        return "equal bits"

    records.verify(f"golden {golden.name}: deterministic", bits_agree)


def check_golden(records: Records, golden: GoldenModel, engine: DeviceEngine, *, relative: float) -> None:
    """Compare logits, and greedy codes alone, in a batch of three, and in one that reads the condition once.

    A greedy code may differ where the published one and ours are as near each other as the logits are exact; what
    follows it then differs too and isn't compared.
    """
    condition, codes, wanted = (golden.arrays[name][0] for name in ("c_indices", "z_indices", "logits"))
    tolerance = relative * float(np.abs(wanted).max())

    def logits_agree() -> str:
        error = float(np.abs(_logits(engine, condition, codes) - wanted).max())
        assert error <= tolerance, f"error {error:.4f}, tolerance {tolerance:.4f}"
        return f"error {error:.4f} of {tolerance:.4f}"

    def greedy_agrees(batch: int) -> str:
        greedy = golden.arrays["greedy_indices"][0]
        count = len(greedy)
        drawing = Drawing(
            prefixes=(condition,) * batch,
            codes=np.full((batch, count), FREE),
            starts=np.zeros(batch, np.int64),
            ends=np.full(batch, count),
            code_positions=np.arange(count),
            sampling=(Sampling(greedy=True),) * batch,
            seeds=(0,) * batch,
            pictures=np.arange(batch),
            guidance_scale=None,
            codebook_size=wanted.shape[1],
        )
        equal = []
        for row in engine.draw(drawing):
            differ = np.flatnonzero(row != greedy)
            first = int(differ[0]) if len(differ) else count
            equal.append(first)
            if first < count:
                logits = _logits(engine, condition, greedy)[first]
                gap = float(logits.max() - logits[greedy[first]])
                assert gap <= 2 * tolerance, f"code {first} is {row[first]}, wanted {greedy[first]}, {gap:.4f} below it"
        return f"equal up to code {min(equal)} of {count}, then a tie within float16" if min(equal) < count else "equal"

    records.verify(f"golden {golden.name}: logits", logits_agree)
    records.verify(f"golden {golden.name}: greedy codes", lambda: greedy_agrees(1))
    records.verify(f"golden {golden.name}: greedy codes in a batch", lambda: greedy_agrees(3))
    with engine.sharing_from(1):
        records.verify(f"golden {golden.name}: greedy codes, condition shared", lambda: greedy_agrees(3))


def _logits(engine: DeviceEngine, condition: npt.NDArray[np.int64], codes: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return float32 (N, V): the logits that predict each code."""
    tokens = np.concatenate([condition, codes])[None, :-1]
    cache = engine.new_cache(batch=1, capacity=tokens.shape[1])
    rows = np.arange(len(condition) - 1, tokens.shape[1])
    logits: npt.NDArray[Any] = engine.prefill(cache, tokens, rows=rows)[0]
    return logits
