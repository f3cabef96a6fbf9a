"""A layer of the decode step's dense parts beside its definition."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches import dense_step as launches
from trt_vqgan.kernels.launches.dense_step import DenseStep, NormAddresses, plan_dense_step
from trt_vqgan.kernels.launches.split_product import LinearAddresses, Workspace
from trt_vqgan.kernels.packing import pack_weights
from trt_vqgan.kernels.reference import dense_step as reference
from trt_vqgan.kernels.reference.dense_step import Linear, Norm

F32 = NDArray[np.float32]
FloatArray = NDArray[np.floating[Any]]

KINDS = ("norm_linear", "norm_linear_gelu", "norm_logits", "linear_residual")
"""Functions of `trt_vqgan.kernels.reference.dense_step`, one a kernel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCase:
    """A layer and its input."""

    plan: DenseStep
    layer: Linear
    norm: Norm
    x: F32
    activations: NDArray[np.float16]

    @staticmethod
    def random(
        outputs: int, inputs: int, rows: int, multiprocessors: int, *, offset: float = 0.0, same_bits: bool = False
    ) -> DenseCase:
        """Return a case of W (outputs, inputs); ``offset`` is the mean of the rows."""
        rng = np.random.default_rng(outputs * inputs + rows)
        plan = plan_dense_step(
            outputs=outputs, inputs=inputs, rows=rows, multiprocessors=multiprocessors, same_bits=same_bits
        )
        weight = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float16)
        return DenseCase(
            plan=plan,
            layer=Linear(weight=weight, bias=rng.standard_normal(outputs).astype(np.float32)),
            norm=Norm(
                gain=rng.uniform(0.5, 2, inputs).astype(np.float32), bias=rng.standard_normal(inputs).astype(np.float32)
            ),
            x=(rng.standard_normal((rows, inputs)) * 3 + offset).astype(np.float32),
            activations=rng.standard_normal((rows, inputs)).astype(np.float16),
        )

    def leading(self, rows: int, multiprocessors: int, *, same_bits: bool) -> DenseCase:
        """Return the case of the first ``rows`` rows."""
        plan = plan_dense_step(
            outputs=self.plan.outputs,
            inputs=self.plan.inputs,
            rows=rows,
            multiprocessors=multiprocessors,
            same_bits=same_bits,
        )
        return dataclasses.replace(self, plan=plan, x=self.x[:rows], activations=self.activations[:rows])

    def magnitude(self, kind: str) -> NDArray[np.float64]:
        """Return the sum of the absolute products of each result: what rounding errors are measured by."""
        if kind == "linear_residual":
            read = self.activations.astype(np.float64)
        else:
            read = reference.layer_norm(self.x, self.norm)
        return np.abs(read) @ np.abs(self.layer.weight.astype(np.float64)).T

    def residual(self) -> F32:
        """Return what ``linear_residual`` adds to."""
        rng = np.random.default_rng(3)
        return rng.standard_normal((self.plan.rows, self.plan.outputs)).astype(np.float32)

    def wanted(self, kind: str) -> FloatArray:
        """Return what the definition makes."""
        if kind == "linear_residual":
            x = self.residual()
            reference.linear_residual(self.activations, self.layer, x)
            return x
        result: FloatArray = getattr(reference, kind)(self.x, self.norm, self.layer)
        return result

    def found(self, runner: KernelRunner, kind: str, *, seed: int = 0, kernel: str | None = None) -> FloatArray:
        """Return what the kernel makes; ``kernel`` names another than that of ``kind``."""
        place, address = runner.place, runner.address
        # NaN: no partial sum may be read before it is written
        partials = place(np.full(self.plan.partial_bytes // 4, np.nan, np.float32))
        tickets = place(np.zeros(self.plan.ticket_bytes // 4, np.int32))
        workspace = Workspace(partials=int(address(partials)), tickets=int(address(tickets)))
        packed = place(pack_weights(self.layer.weight))
        bias = None if self.layer.bias is None else place(self.layer.bias)
        layer = LinearAddresses(weights=int(address(packed)), bias=0 if bias is None else int(address(bias)))
        if kind == "linear_residual":
            activations = place(self.activations)
            out: FloatArray = place(self.residual())
            launch = launches.linear_residual(
                self.plan, layer=layer, workspace=workspace, activations=int(address(activations)), x=int(address(out))
            )
        else:
            x, gain, norm_bias = place(self.x), place(self.norm.gain), place(self.norm.bias)
            shape = (self.plan.rows, self.plan.outputs)
            out = place(np.full(shape, np.nan, np.float32 if kind == "norm_logits" else np.float16))
            norm = NormAddresses(gain=int(address(gain)), bias=int(address(norm_bias)))
            launch = getattr(launches, kind)(
                self.plan, layer=layer, norm=norm, workspace=workspace, x=int(address(x)), out=int(address(out))
            )
        runner.launch(dataclasses.replace(launch, kernel=kernel or launch.kernel), seed=seed)
        assert not tickets.any(), "every ticket is set back"
        return out

    def check(
        self,
        runner: KernelRunner,
        kind: str,
        *,
        relative: float,
        absolute: float,
        seed: int = 0,
        kernel: str | None = None,
    ) -> float:
        """Return the largest error as a part of what is allowed, at most 1.

        Allowed are ``relative`` times the sum of the absolute products, ``absolute``, and a rounding of the result.
        """
        wanted = self.wanted(kind).astype(np.float64)
        found = self.found(runner, kind, seed=seed, kernel=kernel)
        allowed = relative * self.magnitude(kind) + absolute
        # the result's own rounding may go to either side
        allowed += np.abs(wanted) * (2.0**-10 if found.dtype == np.float16 else 2.0**-23)
        error = np.abs(found.astype(np.float64) - wanted)
        worst = float((error / allowed).max())
        assert (error <= allowed).all(), f"{kind}: {worst} of what is allowed"
        return worst
