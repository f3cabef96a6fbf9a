"""Our CPU kernels, by the graph that an export writes."""

from __future__ import annotations

from trt_vqgan.benchmarks.peers.drawing import Drawer, engine_drawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.benchmarks.rows import NATIVE
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.engine import NativeEngine


def prepare(job: Job) -> None:
    """Build the kernels where they aren't, and write the graph."""
    built_library()
    job.write_transformer()


def open_drawer(job: Job) -> Drawer:
    """Return the engine's steps, or its prefill."""
    engine = NativeEngine(job.folder / "transformer.onnx", job.transformer, threads=job.threads)
    return engine_drawer(NATIVE, engine, job)
