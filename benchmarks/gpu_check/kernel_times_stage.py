"""Times of single kernels beside their floors and torch's operations, over data that the L2 cache can't hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trt_vqgan.benchmarks.gpu_check.device_memory import copies_beyond_cache, halves, random_halves
from trt_vqgan.benchmarks.gpu_check.floors import Work
from trt_vqgan.benchmarks.gpu_check.open_gpu import need_torch, open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.cached_attention import cached_attention, plan_attention
from trt_vqgan.kernels.launches.dense_step import NormAddresses, norm_linear, plan_dense_step
from trt_vqgan.kernels.launches.nearest_code import NearestCodePlan
from trt_vqgan.kernels.launches.pixels import pixels
from trt_vqgan.kernels.launches.split_product import LinearAddresses, Workspace
from trt_vqgan.kernels.packed_codebook import pack_codebook
from trt_vqgan.kernels.packing import packed_bytes
from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.device.interface import Device, upload_new, zeros

HALF = np.dtype(np.float16)
L2_BYTES = 64 << 20  # at least that of every device so far but the largest; the data is three times as much

Call = Callable[[], object]


class KernelTimes:
    """Measures on one device."""

    def __init__(self, records: Records, device: Device, *, shared_limit: int) -> None:
        self._records, self._device, self._shared_limit = records, device, shared_limit

    def run(self) -> None:
        """Measure everything, each part by itself."""
        for batch in (1, 8, 64):
            with self._records.part(f"cached_attention batch {batch}"):
                self.attention(batch)
        for width in (1024, 1536):
            for rows in (1, 8):
                with self._records.part(f"norm_linear {width} rows {rows}"):
                    self.dense(3 * width, width, rows)
        for rows in (256, 4096):
            with self._records.part(f"nearest_code rows {rows}"):
                self.nearest(rows)
        for vocabulary in (1024, 16384):
            with self._records.part(f"sample_codes V={vocabulary}"):
                self.sampling(vocabulary)
        with self._records.part("pixels"):
            self.pictures()

    def attention(self, batch: int, *, heads: int = 16, size: int = 64, positions: int = 384) -> None:
        """One query a row: by default over the positions of a layer of 24x1024."""
        import torch
        from torch.nn import functional as F

        device, capacity = self._device, bucket_length(positions + 1)
        plan = plan_attention(batch=batch, tokens=1, heads=heads, head_size=size, capacity=capacity)
        shape = (batch, heads, capacity, size)
        used = batch * heads * positions * size * 2 * 2
        copies = copies_beyond_cache(used, l2=L2_BYTES)
        caches = [(random_halves(device, shape), random_halves(device, shape, seed=1)) for _ in range(copies)]
        qkv = random_halves(device, (batch, 1, 3, heads, size))
        lengths = upload_new(device, np.full(batch, positions - 1, np.int32))
        out = device.allocate((batch, 1, heads * size), HALF)
        partials = device.allocate((plan.partial_floats,), np.float32)
        tickets = zeros(device, (plan.tickets,), np.int32)
        launches = [
            launch
            for keys, values in caches
            for launch in cached_attention(
                plan,
                qkv=int(qkv.pointer),
                key_cache=int(keys.pointer),
                value_cache=int(values.pointer),
                lengths=int(lengths.pointer),
                out=int(out.pointer),
                partials=int(partials.pointer),
                tickets=int(tickets.pointer),
            )
        ]
        seen = (batch, heads, positions, size)
        pairs = [[torch.randn(seen, device="cuda").half() for _ in range(2)] for _ in range(copies)]
        q = torch.randn((batch, heads, 1, size), device="cuda").half()
        baseline: list[Call] = [
            lambda k=k, v=v: F.scaled_dot_product_attention(q, k, v)  # type: ignore[misc]
            for k, v in pairs
        ]
        work = Work(bytes=used, flop=4 * batch * heads * positions * size)
        self._add(
            "cached_attention (baseline: scaled_dot_product_attention)",
            f"B={batch} {heads}x{size} S={positions}",
            launches,
            work,
            baseline,
        )

    def dense(self, outputs: int, inputs: int, rows: int) -> None:
        """The fused layer norm and product of a decode step."""
        import torch
        from torch.nn import functional as F

        device = self._device
        plan = plan_dense_step(outputs=outputs, inputs=inputs, rows=rows, multiprocessors=device.multiprocessors)
        nbytes = packed_bytes(outputs, inputs)
        copies = copies_beyond_cache(nbytes, l2=L2_BYTES)
        packed = [random_halves(device, (nbytes // 2,), scale=0.02) for _ in range(copies)]
        x = upload_new(device, np.ones((rows, inputs), np.float32) * np.arange(inputs, dtype=np.float32))
        gain, bias, add = (zeros(device, (max(outputs, inputs),), np.float32) for _ in range(3))
        out = device.allocate((rows, outputs), HALF)
        partials = device.allocate((max(plan.partial_bytes, 1),), np.uint8)
        tickets = zeros(device, (max(plan.ticket_bytes, 4),), np.uint8)
        launches = [
            norm_linear(
                plan,
                layer=LinearAddresses(weights=int(weights.pointer), bias=int(add.pointer)),
                norm=NormAddresses(gain=int(gain.pointer), bias=int(bias.pointer)),
                workspace=Workspace(partials=int(partials.pointer), tickets=int(tickets.pointer)),
                x=int(x.pointer),
                out=int(out.pointer),
            )
            for weights in packed
        ]
        activations = torch.randn(rows, inputs, device="cuda").half()
        matrices = [torch.randn(outputs, inputs, device="cuda").half() for _ in range(copies)]
        baseline: list[Call] = [lambda m=m: F.linear(activations, m) for m in matrices]  # type: ignore[misc]
        work = Work(bytes=outputs * inputs * 2, flop=2 * rows * outputs * inputs)
        self._add(
            "layer norm + product (baseline: F.linear alone)",
            f"{outputs}x{inputs} rows={rows}",
            launches,
            work,
            baseline,
        )

    def nearest(self, rows: int, *, size: int = 16384, dim: int = 256) -> None:
        """Latents in the largest of the published codebooks."""
        import torch

        device = self._device
        codebook = halves((size, dim)).astype(np.float32)
        z = codebook[np.arange(rows) % size] + halves((rows, dim), scale=0.5, seed=1).astype(np.float32)
        packed = pack_codebook(codebook)
        plan = NearestCodePlan(
            codebook=packed, rows=rows, multiprocessors=device.multiprocessors, shared_limit=self._shared_limit
        )
        latents, memory = upload_new(device, z), upload_new(device, packed.memory)
        codes = device.allocate((rows,), np.int32)
        workspace = device.allocate((max(1, plan.workspace_bytes),), np.uint8)
        launches = plan.launches(
            z=int(latents.pointer),
            codebook=int(memory.pointer),
            codes=int(codes.pointer),
            workspace=int(workspace.pointer),
        )
        a, b = torch.from_numpy(z).cuda(), torch.from_numpy(codebook).cuda()
        baseline: list[Call] = [lambda: torch.cdist(a, b).argmin(dim=1)]
        work = Work(bytes=4 * rows * dim + 2 * size * dim, flop=2 * rows * size * dim)
        self._add(
            "nearest_code (baseline: cdist + argmin)", f"M={rows} N={size} D={dim}", launches, work, baseline, pieces=1
        )

    def sampling(self, vocabulary: int) -> None:
        """The end of a step of 64 pictures: top-k of 100, draw, next input."""
        import torch

        from trt_vqgan.benchmarks.gpu_check.sampler_launch import SamplerBuffers
        from trt_vqgan.benchmarks.gpu_check.torch_models import draw

        for batch in (1, 64):
            buffers = SamplerBuffers(self._device, batch=batch, vocabulary=vocabulary)
            logits = torch.randn(batch, vocabulary, device="cuda")
            baseline: list[Call] = [lambda logits=logits: draw(logits)]  # type: ignore[misc]
            work = Work(bytes=4 * batch * vocabulary)
            shape = f"B={batch} V={vocabulary}"
            self._add("sample_codes (baseline: topk + multinomial)", shape, [buffers.launch()], work, baseline * 20)

    def pictures(self, *, batch: int = 8, side: int = 1024) -> None:
        """Planes to pictures."""
        import torch

        device, shape = self._device, (batch, 3, side, side)
        planes = random_halves(device, shape)
        out = device.allocate((batch, side, side, 3), np.uint8)
        launch = pixels(
            planes=int(planes.pointer),
            pictures=int(out.pointer),
            batch=batch,
            channels=3,
            height=side,
            width=side,
            dtype=np.dtype(np.float16),
        )
        given = torch.randn(shape, device="cuda").half()

        def by_torch() -> Any:
            levels = ((given.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)
            return levels.permute(0, 2, 3, 1).contiguous()

        self._add(
            "pixels (baseline: torch)",
            f"{batch}x{side}x{side}",
            [launch],
            Work(bytes=planes.nbytes + out.nbytes),
            [by_torch],
        )

    def _add(
        self,
        name: str,
        shape: str,
        launches: Sequence[Launch],
        work: Work,
        baseline: Sequence[Call],
        *,
        pieces: int | None = None,
    ) -> None:
        """Measure launches in one graph, over and over until there are enough of them.

        ``pieces`` counts as how many pieces of work one round of ``launches`` is, by default as many as launches.
        """
        from trt_vqgan.benchmarks.gpu_check.gpu_timer import SHORT_LAUNCHES, stream_times, torch_times

        rounds = max(1, SHORT_LAUNCHES // len(launches))
        each = len(launches) if pieces is None else pieces

        def issue() -> None:
            for _ in range(rounds):
                for launch in launches:
                    self._device.launch(launch)

        for launch in launches:  # once outside: what a kernel needs is settled then
            self._device.launch(launch)
        graph = self._device.capture(issue)
        seconds = stream_times(self._device.stream, graph.replay, pieces=rounds * each)
        self._records.bench(name, shape, seconds, work=work, baseline=torch_times(baseline))
        graph.free()


def run(records: Records, settings: Settings) -> None:
    """Measure the kernels."""
    from trt_vqgan.benchmarks.gpu_check.kernels_stage import shared_limit

    need_torch()
    with open_gpu(settings.gpu) as device:
        KernelTimes(records, device, shared_limit=shared_limit(settings.gpu)).run()
