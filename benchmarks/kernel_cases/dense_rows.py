"""A layer of the decode step's dense parts for many rows, beside its definition."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches.dense_rows import DenseKind, dense_rows, plan_dense_rows
from trt_vqgan.kernels.launches.split_product import LinearAddresses, Workspace
from trt_vqgan.kernels.packing import pack_weights
from trt_vqgan.kernels.reference import dense_step as reference
from trt_vqgan.kernels.reference.dense_step import Linear

DENSE_KINDS: tuple[DenseKind, ...] = get_args(DenseKind)


class DenseRowsCase:
    """W (outputs, inputs), its bias, and half activations of some rows.

    Parameters
    ----------
    multiprocessors : of the device that the plan is made for.
    """

    def __init__(self, outputs: int, inputs: int, rows: int, multiprocessors: int) -> None:
        rng = np.random.default_rng(outputs * inputs + rows)
        self.plan = plan_dense_rows(outputs=outputs, inputs=inputs, rows=rows, multiprocessors=multiprocessors)
        weight = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float16)
        self.layer = Linear(weight=weight, bias=rng.standard_normal(outputs).astype(np.float32))
        self.activations = rng.standard_normal((rows, inputs)).astype(np.float16)
        self.residual = rng.standard_normal((rows, outputs)).astype(np.float32)

    def wanted(self, kind: DenseKind) -> NDArray[np.float64]:
        """Return what the definition makes, not rounded."""
        product = reference.linear(self.activations, self.layer)
        if kind == "gelu":
            return reference.gelu(product)
        return product + self.residual if kind == "residual" else product

    def found(self, runner: KernelRunner, kind: DenseKind, *, seed: int = 0) -> NDArray[np.floating[Any]]:
        """Return what the kernel makes."""
        place, address = runner.place, runner.address
        # NaN: no partial sum may be read before it is written
        partials = place(np.full(max(self.plan.partial_bytes // 4, 1), np.nan, np.float32))
        tickets = place(np.zeros(max(self.plan.ticket_bytes // 4, 1), np.int32))
        assert self.layer.bias is not None
        packed, bias = place(pack_weights(self.layer.weight)), place(self.layer.bias)
        activations = place(self.activations)
        out: NDArray[Any] = place(
            self.residual
            if kind == "residual"
            else np.full(self.residual.shape, np.nan, np.float32 if kind == "logits" else np.float16)
        )
        launch = dense_rows(
            self.plan,
            kind,
            layer=LinearAddresses(weights=int(address(packed)), bias=int(address(bias))),
            workspace=Workspace(partials=int(address(partials)), tickets=int(address(tickets))),
            activations=int(address(activations)),
            out=int(address(out)),
        )
        runner.launch(launch, seed=seed)
        assert not tickets.any(), "every ticket is set back"
        return out

    def check(self, runner: KernelRunner, kind: DenseKind, *, relative: float, absolute: float, seed: int = 0) -> float:
        """Return the largest error as a part of what is allowed, at most 1.

        Allowed are ``relative`` times the sum of the absolute products, ``absolute``, and a rounding of the result.
        """
        wanted, found = self.wanted(kind), self.found(runner, kind, seed=seed)
        magnitude = np.abs(self.activations.astype(np.float64)) @ np.abs(self.layer.weight.astype(np.float64)).T
        rounding = 2.0**-10 if found.dtype == np.float16 else 2.0**-23
        allowed = relative * magnitude + absolute + np.abs(wanted) * rounding
        error = np.abs(found.astype(np.float64) - wanted)
        worst = float((error / allowed).max())
        assert (error <= allowed).all(), f"{kind}: {worst} of what is allowed"
        return worst
