"""The engines that are measured beside each other: our CPU kernels and ONNX Runtime, in each precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.rows import NATIVE, OURS
from trt_vqgan.benchmarks.subjects import Subject
from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.runtime.cache_buckets import bucket_length
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.engine import NativeEngine
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.matrices import matrices
from trt_vqgan.runtime.transformer import TransformerEngine
from trt_vqgan.spec import TransformerSpec


@dataclasses.dataclass(frozen=True)
class MeasuredEngine:
    """One engine of a row.

    Attributes
    ----------
    runner : `rows.NATIVE` for our CPU kernels, `rows.OURS` through ONNX Runtime.
    precision : of the weights.
    weight_bytes : of the matrices that a decode step reads once, as this engine has them in memory.
    """

    runner: str
    precision: str
    engine: TransformerEngine | NativeEngine
    weight_bytes: int

    @property
    def position_bytes(self) -> int:
        """Bytes of keys and values of one position of one row, in all layers."""
        return self.engine.cache_bytes(batch=1, capacity=1) // bucket_length(1)

    @property
    def name(self) -> str:
        """The engine's name beside others, such as "native fp32"."""
        return f"{self.runner} {self.precision}"


def open_engines(subject: Subject, context: Context, *, what: str) -> list[MeasuredEngine]:
    """Return the engines of each precision; our kernels only where they are built, or a compiler is there."""
    found = []
    runners = measured_runners(context)
    for precision in subject.precisions:
        path, spec = subject.transformer(precision), subject.spec.transformer
        assert spec is not None
        for runner in runners:
            context.say(f"{subject.name} {what}: loading {runner} {precision}")
            if runner == NATIVE:
                native = NativeEngine(path, spec, threads=context.threads)
                found.append(MeasuredEngine(runner, precision, native, stored_weight_bytes(path, spec, scale_bytes=2)))
            else:
                session = TransformerEngine(path, spec, threads=context.threads)
                found.append(MeasuredEngine(runner, precision, session, stored_weight_bytes(path, spec, scale_bytes=4)))
    return found


def stored_weight_bytes(path: Path, spec: TransformerSpec, *, scale_bytes: int) -> int:
    """Return the bytes of the matrices in the graph ``path``, each with the bits that it has there.

    Raises
    ------
    BundleError : the file doesn't hold the weights of such a transformer.
    """
    total = 0
    for matrix in matrices(GraphWeights(path), spec):
        outputs = sum(matrix.outputs)
        if matrix.block == 0:
            total += outputs * matrix.inputs * matrix.bits // 8
        else:
            blocks = -(-matrix.inputs // matrix.block)
            total += outputs * blocks * (matrix.block * matrix.bits // 8 + scale_bytes)
    return total


def measured_runners(context: Context) -> Sequence[str]:
    """Return what is measured here: our kernels only where they are built, or a compiler is there."""
    try:
        built_library(say=context.say)
    except BackendUnavailableError as error:
        context.say(f"left out: {error}")
        return (OURS,)
    return (NATIVE, OURS)
