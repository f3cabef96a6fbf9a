"""torch: the published modules, which the others are compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import Drawer, PrefillDrawer, SteppingDrawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.benchmarks.rows import TORCH
from trt_vqgan.benchmarks.torch_baseline import TorchReference, TorchSteps

Int64Array = npt.NDArray[np.int64]


class _FromNothing(TorchSteps):
    """Steps of torch, from an empty cache."""

    def start(self, prefix: Int64Array) -> None:
        self._past = None


def prepare(job: Job) -> None:
    """Do nothing: the modules are made of the weights."""


def open_drawer(job: Job) -> Drawer:
    """Return the modules' steps, or their prefill."""
    reference = TorchReference(job.spec, job.weights, own_weights=True, threads=job.threads)
    if job.what == "prefill":
        return PrefillDrawer(TORCH, job.transformer.vocab_size, reference.prefill)
    return SteppingDrawer(TORCH, _FromNothing(reference))
