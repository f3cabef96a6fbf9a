"""torch: the published modules, which the others are compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import SteppingDrawer
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


def open_drawer(job: Job) -> SteppingDrawer:
    """Return the modules' steps."""
    reference = TorchReference(job.spec, job.weights, own_weights=True, threads=job.threads)
    return SteppingDrawer(TORCH, _FromNothing(reference))
