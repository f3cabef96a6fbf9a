"""ONNX Runtime sessions: how they are made, and what must be true of the environment."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnxruntime as ort

from trt_vqgan.errors import BackendUnavailableError, BundleError

SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]
"""Optimisations of ONNX Runtime 1.32 that are left out. Of 392 tokens of width 1024 on two threads, sum and norm in one
node take 4.7 ms, apart 0.25 ms; sum and GELU of 392 times 1024 take 0.33 ms, apart 0.14 ms. One token takes as long."""


def check_onnxruntime() -> None:
    """Raise BackendUnavailableError where onnxruntime and onnxruntime-gpu are both installed.

    Both packages write the same files, so whichever came last has half replaced the other.
    """
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(found) == 2:
        raise BackendUnavailableError(
            f"{found[0]} and {found[1]} are both installed and overwrite each other's files; keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime (or onnxruntime-gpu)"
        )


def open_session(path: Path, *, threads: int, arena: bool = True) -> ort.InferenceSession:
    """Return a CPU session of the graph at ``path``.

    Parameters
    ----------
    threads : threads of its pool, set explicitly.
    arena : keep freed activations for the next run. Off where a run's activations are large and rare.

    Raises
    ------
    BundleError : the file is no graph that this ONNX Runtime can run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
        )
    except Exception as error:  # ONNX Runtime raises a family of its own types, all of them derived from Exception
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{path}: ONNX Runtime {ort.__version__} can't run it: {reason}; export the bundle again"
        ) from error
