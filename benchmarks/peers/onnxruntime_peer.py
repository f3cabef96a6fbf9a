"""ONNX Runtime, as the package runs it, by the graph that an export writes."""

from __future__ import annotations

import onnxruntime

from trt_vqgan.benchmarks.peers.drawing import Drawer, engine_drawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.runtime.transformer import TransformerEngine


def prepare(job: Job) -> None:
    """Write the graph."""
    job.write_transformer()


def open_drawer(job: Job) -> Drawer:
    """Return the session's steps, or its prefill."""
    engine = TransformerEngine(job.folder / "transformer.onnx", job.transformer, threads=job.threads)
    return engine_drawer(f"ONNX Runtime {onnxruntime.__version__}", engine, job)
