"""ONNX Runtime, as the package runs it, by the graph that an export writes."""

from __future__ import annotations

import onnxruntime

from trt_vqgan.benchmarks.peers.drawing import EngineFromNothing, SteppingDrawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.runtime.transformer import TransformerEngine


def prepare(job: Job) -> None:
    """Write the graph."""
    job.write_transformer()


def open_drawer(job: Job) -> SteppingDrawer:
    """Return the session's steps."""
    engine = TransformerEngine(job.folder / "transformer.onnx", job.transformer, threads=job.threads)
    return SteppingDrawer(
        f"ONNX Runtime {onnxruntime.__version__}", EngineFromNothing(engine, capacity=job.transformer.max_seq_len)
    )
