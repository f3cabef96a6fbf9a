"""OpenVINO: decode steps of the same weights, with keys and values kept as the model's own state, or a prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import Drawer, PrefillDrawer, SteppingDrawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.extras import import_module

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


COMPRESSED: dict[str, dict[str, Any]] = {"int8_sym": {}, "int4_sym": {"group_size": 32, "ratio": 1.0}}
"""Precisions in which NNCF keeps the weights, with its options. The head has 8 bits in both; arithmetic and cache are
in what OpenVINO takes by itself."""


class OpenVinoSteps:
    """Decode steps."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def start(self, prefix: Int64Array) -> None:
        """Begin with an empty cache; ``prefix`` must be int64 (B, 0)."""
        assert prefix.shape[1] == 0
        self._request.reset_state()

    def step(self, tokens: Int64Array, position: int) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``position`` and return logits float32 (B, V)."""
        found = self._request.infer(
            {
                "tokens": tokens[:, None],
                "position": np.array([position], dtype=np.int64),
                "rows": np.arange(len(tokens), dtype=np.int32),
            },
            share_inputs=True,
            share_outputs=True,
        )
        logits: FloatArray = next(iter(found.values()))[:, 0]
        return logits


def prepare(job: Job) -> None:
    """Write the step or prefill in OpenVINO's own form, its weights in float32 or as NNCF keeps them."""
    from trt_vqgan.benchmarks.peers.openvino_step import causal_prefill, stateful_step

    model = (causal_prefill if job.what == "prefill" else stateful_step)(job.transformer, job.weights)
    if job.precision in COMPRESSED:
        nncf: Any = import_module("nncf")
        mode = nncf.CompressWeightsMode[job.precision.upper()]
        model = nncf.compress_weights(model, mode=mode, **COMPRESSED[job.precision])
    import_module("openvino").save_model(model, str(_model(job)), compress_to_fp16=False)


def open_drawer(job: Job) -> Drawer:
    """Return the steps of the compiled model, or its prefill."""
    package = import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY"}
    if job.precision not in COMPRESSED:
        settings |= {"INFERENCE_PRECISION_HINT": job.precision, "KV_CACHE_PRECISION": job.precision}
    request: Any = package.Core().compile_model(str(_model(job)), "CPU", settings).create_infer_request()
    runner = f"OpenVINO {str(package.__version__).partition('-')[0]}"
    if job.what != "prefill":
        return SteppingDrawer(runner, OpenVinoSteps(request))

    def prefill(tokens: Int64Array) -> FloatArray:
        found = request.infer({"tokens": tokens}, share_inputs=True, share_outputs=True)
        logits: FloatArray = next(iter(found.values()))
        return logits

    return PrefillDrawer(runner, job.transformer.vocab_size, prefill)


def _model(job: Job) -> Path:
    return job.folder / "model.xml"
