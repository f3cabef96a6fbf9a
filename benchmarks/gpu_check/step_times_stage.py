"""Decode steps and whole pictures: ours beside the weight-read floor and beside torch."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.gpu_check.device_memory import halves
from trt_vqgan.benchmarks.gpu_check.floors import Work, step_work
from trt_vqgan.benchmarks.gpu_check.open_gpu import need_torch, open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.kernels.launches.dense_step import MAX_ROWS
from trt_vqgan.kernels.reference.decode_state import FREE
from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.device.interface import Device
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations
from trt_vqgan.runtime.gpu.decode_plan import DecodePlan, PlanSize
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.runtime.gpu.shared_prefix import PrefixSize
from trt_vqgan.runtime.gpu.state import Drawing
from trt_vqgan.runtime.sampler import Sampling
from trt_vqgan.spec import TransformerSpec

CODES = 256
BATCHES = (1, 8, 64)
DRAWN = Sampling(temperature=1.0, top_k=100, top_p=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model to time: its sizes, and the tokens of its condition."""

    name: str
    spec: TransformerSpec
    condition: int

    @property
    def mean_positions(self) -> int:
        """Positions in the cache in the middle of a picture."""
        return self.condition + CODES // 2


def _shape(name: str, condition: int, **sizes: Any) -> Shape:
    spec = TransformerSpec(max_seq_len=condition + CODES, **sizes)
    return Shape(name=name, spec=spec, condition=condition)


SHAPES = (
    _shape("demo 6x256", 1, num_layers=6, hidden_size=256, num_heads=8, vocab_size=1024),
    _shape("24x1024", 256, num_layers=24, hidden_size=1024, num_heads=16, vocab_size=1024),
    _shape("48x1536", 1, num_layers=48, hidden_size=1536, num_heads=24, vocab_size=16384),
)
"""The demo's sizes, and the published ones as the design note counts them."""


def run(records: Records, settings: Settings) -> None:
    """Time each shape at each batch."""
    need_torch()
    for shape in SHAPES:
        baselines: dict[tuple[str, int], list[float]] = {}
        with records.part(f"torch {shape.name}"):
            baselines = torch_baselines(shape, settings.gpu)
        with records.part(f"steps {shape.name}"), open_gpu(settings.gpu) as device:
            time_shape(records, shape, device, baselines)


def time_shape(records: Records, shape: Shape, device: Device, baselines: dict[tuple[str, int], list[float]]) -> None:
    """Write what steps and pictures of one shape take."""
    from trt_vqgan.benchmarks.gpu_check.gpu_timer import stream_times

    spec = shape.spec
    tensors = random_tensors(spec)
    operations = CudaOperations(device, spec, tensors["tok_emb.weight"], tensors["pos_emb"])
    executor = CudaExecutor(device, spec, tensors)
    engine = DeviceEngine(spec, device, operations=operations, executor=executor)
    for batch in BATCHES:
        with records.part(f"step {shape.name} batch {batch}"):
            plan = step_plan(shape, device, operations, executor, batch=batch)
            plan.step()
            seconds = stream_times(device.stream, plan.step)
            work = step_work(spec, batch=batch, positions=shape.mean_positions)
            for name in ("static cache, CUDA graph", "published"):
                label = f"decode step (baseline: torch, {name})"
                records.bench(
                    label, f"{shape.name} B={batch}", seconds, work=work, baseline=baselines.get((name, batch))
                )
            plan.free()
        if batch > MAX_ROWS:
            with records.part(f"step {shape.name} batch {batch}, cuBLASLt"):
                products = CudaExecutor(device, spec, tensors, kernel_rows=MAX_ROWS)
                plan = step_plan(shape, device, operations, products, batch=batch)
                plan.step()
                name = "decode step, products by cuBLASLt (baseline: our own products)"
                records.bench(
                    name, f"{shape.name} B={batch}", stream_times(device.stream, plan.step), work=work, baseline=seconds
                )
                plan.free()
                products.close()
        if batch > 1 and shape.condition > 1:
            with records.part(f"step {shape.name} batch {batch}, condition shared"):
                plan = step_plan(shape, device, operations, executor, batch=batch, shared=True)
                plan.step()
                seconds = stream_times(device.stream, plan.step)
                work = step_work(spec, batch=batch, positions=shape.mean_positions, shared=shape.condition)
                records.bench(
                    "decode step, condition shared (baseline: torch, static cache, CUDA graph)",
                    f"{shape.name} B={batch}",
                    seconds,
                    work=work,
                    baseline=baselines.get(("static cache, CUDA graph", batch)),
                )
                plan.free()
        with records.part(f"pictures {shape.name} batch {batch}"):
            drawing = a_drawing(shape, batch=batch, done=0)
            engine.draw(drawing)
            seconds = [_seconds_of(lambda: engine.draw(drawing)) for _ in range(3)]  # noqa: B023  called at once
            records.bench(
                f"{CODES} codes a picture (baseline: torch, published)",
                f"{shape.name} B={batch}",
                seconds,
                work=Work(),
                baseline=baselines.get(("pictures", batch)),
            )


def step_plan(
    shape: Shape,
    device: Device,
    operations: CudaOperations,
    executor: CudaExecutor,
    *,
    batch: int,
    shared: bool = False,
) -> DecodePlan:
    """Return a plan in the middle of its pictures: caches of zeros, `Shape.mean_positions` of them filled.

    With ``shared``, all pictures have one condition, which is kept and read once.
    """
    drawing = a_drawing(shape, batch=batch, done=CODES // 2 - 20)  # 41 steps follow, half of them before the middle
    prefix = PrefixSize(length=shape.condition, groups=1) if shared else None
    size = PlanSize(
        pictures=batch,
        guided=False,
        capacity=bucket_length(CODES if shared else shape.condition + CODES),
        num_codes=CODES,
        prefix=prefix,
    )
    plan = DecodePlan(device, operations, executor, shape.spec, size=size, number=np.dtype(np.float16))
    for cache in (plan.cache, plan.prefix.cache) if plan.prefix is not None else (plan.cache,):
        for layer in range(shape.spec.num_layers):
            device.fill_zero(cache.keys(layer))
            device.fill_zero(cache.values(layer))
    if plan.prefix is not None:
        plan.prefix.upload(np.zeros(batch, np.int32))
    device.fill_zero(plan.logits)
    drawing.upload(device, plan.state)
    plan.sample()
    return plan


def a_drawing(shape: Shape, *, batch: int, done: int) -> Drawing:
    """Return pictures of which ``done`` codes are there."""
    prefix = np.zeros(shape.condition + done, np.int64)
    return Drawing(
        prefixes=tuple(prefix + row for row in range(batch)),  # different, so that none shares another's prefill
        codes=np.full((batch, CODES), FREE),
        starts=np.full(batch, done),
        ends=np.full(batch, CODES),
        code_positions=np.arange(CODES),
        sampling=(DRAWN,) * batch,
        seeds=(0,) * batch,
        pictures=np.arange(batch),
        guidance_scale=None,
        codebook_size=shape.spec.vocab_size,
    )


def random_tensors(spec: TransformerSpec) -> dict[str, npt.NDArray[Any]]:
    """Return weights by a bundle's names. Layers share their arrays here, and get memory of their own on the device."""
    width, vocab = spec.hidden_size, spec.vocab_size
    zeros, ones = (np.full(4 * width, value, np.float32) for value in (0, 1))
    tensors: dict[str, npt.NDArray[Any]] = {
        "tok_emb.weight": halves((vocab, width), scale=0.02),
        "pos_emb": halves((spec.max_seq_len, width), scale=0.02, seed=1),
        "ln_f.weight": ones[:width],
        "ln_f.bias": zeros[:width],
        "head.weight": halves((vocab, width), scale=0.02, seed=2),
    }
    matrices = {
        "attn.qkv": halves((3 * width, width), scale=0.02, seed=3),
        "attn.proj": halves((width, width), scale=0.02, seed=4),
        "mlp.0": halves((4 * width, width), scale=0.02, seed=5),
        "mlp.2": halves((width, 4 * width), scale=0.02, seed=6),
    }
    for i in range(spec.num_layers):
        for norm in ("ln1", "ln2"):
            tensors |= {f"blocks.{i}.{norm}.weight": ones[:width], f"blocks.{i}.{norm}.bias": zeros[:width]}
        for name, matrix in matrices.items():
            bias = np.zeros(len(matrix), np.float32)
            tensors |= {f"blocks.{i}.{name}.weight": matrix, f"blocks.{i}.{name}.bias": bias}
    return tensors


def torch_baselines(shape: Shape, gpu: int) -> dict[tuple[str, int], list[float]]:
    """Return seconds of torch's steps and pictures by name and batch."""
    import torch

    from trt_vqgan.benchmarks.gpu_check.gpu_timer import torch_times
    from trt_vqgan.benchmarks.gpu_check.torch_models import StaticStep, published_codes, random_gpt

    found: dict[tuple[str, int], list[float]] = {}
    with torch.cuda.device(gpu):
        model = random_gpt(shape.spec)
        for batch in BATCHES:
            published_codes(model, batch=batch, prefix=shape.condition, count=4)

            def pictures(batch: int = batch) -> None:
                published_codes(model, batch=batch, prefix=shape.condition, count=CODES)
                torch.cuda.synchronize()

            seconds = _seconds_of(pictures)
            found["pictures", batch] = [seconds]
            found["published", batch] = [seconds / CODES]
            step = StaticStep(model, batch=batch, capacity=shape.condition + CODES, position=shape.mean_positions)
            found["static cache, CUDA graph", batch] = torch_times([step], repeats=20)
            del step
            torch.cuda.empty_cache()
    return found


def _seconds_of(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
