"""Dense segments by our own kernels: fused ones for at most 64 rows, cuBLASLt's products for more."""

from __future__ import annotations

import dataclasses
from typing import TypedDict

import numpy as np

from trt_vqgan.kernels.launches import dense_rows, dense_step
from trt_vqgan.kernels.launches.bias import bias_add, bias_gelu, bias_residual
from trt_vqgan.kernels.launches.dense_rows import DenseKind, plan_dense_rows
from trt_vqgan.kernels.launches.dense_step import NormAddresses, plan_dense_step
from trt_vqgan.kernels.launches.layer_norm import layer_norm
from trt_vqgan.kernels.launches.split_product import LinearAddresses, Workspace
from trt_vqgan.kernels.packing import pack_weights
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device, upload_new, zeros
from trt_vqgan.runtime.gpu.activations import Activations
from trt_vqgan.runtime.gpu.weights import Tensors
from trt_vqgan.spec import TransformerSpec

HALF = np.dtype(np.float16)


@dataclasses.dataclass(frozen=True)
class _Scratch:
    """What a layer needs inside: float16 (rows, d) twice and (rows, 4 d)."""

    normed: DeviceArray
    summed: DeviceArray
    hidden: DeviceArray

    def free(self) -> None:
        for array in (self.normed, self.summed, self.hidden):
            array.memory.free()


KERNEL_ROWS = dense_rows.MAX_ROWS
"""Rows up to which our products run, which read the weights once: 7 launches a layer with attention, where cuBLASLt's
take 11 as bias, GELU and residual come behind them. `gpu-check` times both."""


class _Fused(TypedDict):
    """Arguments that all fused kernels take."""

    plan: dense_step.DenseStep
    layer: LinearAddresses
    workspace: Workspace


class CudaExecutor:
    """Kernel launches in place of the segments; needs neither TensorRT nor ONNX Runtime.

    Matrices are kept packed for the fused kernels, and as they are for cuBLASLt once more rows come than those take.

    Parameters
    ----------
    device : with the kernels loaded.
    spec : the transformer's sizes.
    tensors : its weights, as `trt_vqgan.runtime.gpu.weights` reads them; kept, and read as they are needed.
    deterministic : a row of a step has the same bits beside any others: steps of any number of rows go through the
        fused kernels, at most eight rows at a time, with sums in one order. What has more tokens must come one row at
        a time, as cuBLASLt chooses its algorithm by the shape.
    kernel_rows : rows up to which our products run and not cuBLASLt's; at least 8.
    """

    def __init__(
        self,
        device: Device,
        spec: TransformerSpec,
        tensors: Tensors,
        *,
        deterministic: bool = False,
        kernel_rows: int = KERNEL_ROWS,
    ) -> None:
        self._device, self._spec, self._tensors = device, spec, tensors
        self._deterministic, self._kernel_rows = deterministic, kernel_rows
        self._arrays: dict[str, DeviceArray] = {}
        self._packed: dict[str, DeviceArray] = {}
        self._steps: dict[int, _Scratch] = {}  # by rows; a graph may hold them
        self._longer: _Scratch | None = None
        for name, tensor in tensors.items():
            if tensor.ndim == 1:
                self._arrays[name] = upload_new(device, tensor.astype(np.float32, copy=False))
            elif name not in ("tok_emb.weight", "pos_emb"):
                self._packed[name] = upload_new(device, pack_weights(tensor))
        plans: list[dense_step.DenseStep | dense_rows.DenseRows] = []
        for name in self._packed:
            plans += [self._plan(name, rows) for rows in range(1, dense_step.MAX_ROWS + 1)]
            plans.append(self._rows_plan(name, dense_rows.MAX_ROWS))
        self._partials = device.allocate((max(plan.partial_bytes for plan in plans),), np.uint8)
        self._tickets = zeros(device, (max(plan.ticket_bytes for plan in plans),), np.uint8)

    @property
    def capturable(self) -> bool:
        """Whether a graph may hold it: yes, all of it are launches on the device's stream."""
        return True

    def first(self, work: Activations) -> None:
        """LayerNorm and product of layer 0."""
        self._begin_layer(0, work)

    def middle(self, layer: int, work: Activations) -> None:
        """The rest of one layer, in place, and the beginning of the next."""
        is_step = work.tokens == 1
        scratch = self._scratch(work.batch * work.tokens, step=is_step)
        self._end_layer(layer - 1, work.x, work.attended, is_step, scratch)
        self._begin_layer(layer, work)

    def last(self, x: DeviceArray, attended: DeviceArray, logits: DeviceArray) -> None:
        """The rest of the last layer, the last LayerNorm and the head."""
        rows, is_step = x.shape[0] * x.shape[1], x.shape[1] == 1
        scratch = self._scratch(rows, step=is_step)
        self._end_layer(self._spec.num_layers - 1, x, attended, is_step, scratch)
        x, flat = x.reshape(rows, self._spec.hidden_size), logits.reshape(rows, self._spec.vocab_size)
        for tile in self._tiles(rows, is_step):
            self._device.launch(
                dense_step.norm_logits(
                    **self._fused("head", tile),
                    norm=self._norm("ln_f"),
                    x=_part(x, tile),
                    out=_part(flat, tile),
                )
            )
        if not self._is_fused(rows, is_step):
            normed = self._normalise("ln_f", x, rows, scratch)
            if rows <= self._kernel_rows:
                self._multiply("head", "logits", normed, flat)
            else:
                self._device.gemm(normed, self._matrix("head"), flat)

    def describe(self) -> str:
        """Return what computes."""
        return "own CUDA kernels, cuBLASLt"

    def close(self) -> None:
        """Give weights and buffers back."""
        for array in (*self._arrays.values(), *self._packed.values(), self._partials, self._tickets):
            array.memory.free()
        for scratch in (*self._steps.values(), *([self._longer] if self._longer is not None else [])):
            scratch.free()

    # --- layers -------------------------------------------------------------------------------------------------------

    def _is_fused(self, rows: int, is_step: bool) -> bool:
        return rows <= dense_step.MAX_ROWS or (is_step and self._deterministic)

    def _tiles(self, rows: int, is_step: bool) -> list[slice]:
        """Return the rows of each launch of a fused kernel; none where products compute."""
        if not self._is_fused(rows, is_step):
            return []
        step = dense_step.MAX_ROWS
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def _begin_layer(self, layer: int, work: Activations) -> None:
        name, rows, is_step = f"blocks.{layer}", work.batch * work.tokens, work.tokens == 1
        width = self._spec.hidden_size
        x, qkv = work.x.reshape(rows, width), work.qkv.reshape(rows, 3 * width)
        for tile in self._tiles(rows, is_step):
            self._device.launch(
                dense_step.norm_linear(
                    **self._fused(f"{name}.attn.qkv", tile),
                    norm=self._norm(f"{name}.ln1"),
                    x=_part(x, tile),
                    out=_part(qkv, tile),
                )
            )
        if self._is_fused(rows, is_step):
            return
        normed = self._normalise(f"{name}.ln1", x, rows, self._scratch(rows, step=is_step))
        if rows <= self._kernel_rows:
            self._multiply(f"{name}.attn.qkv", "linear", normed, qkv)
            return
        self._device.gemm(normed, self._matrix(f"{name}.attn.qkv"), qkv)
        self._device.launch(
            bias_add(y=int(qkv.pointer), bias=self._bias(f"{name}.attn.qkv"), rows=rows, columns=qkv.shape[1])
        )

    def _end_layer(self, layer: int, x: DeviceArray, attended: DeviceArray, is_step: bool, scratch: _Scratch) -> None:
        name, launch, width = f"blocks.{layer}", self._device.launch, self._spec.hidden_size
        hidden = scratch.hidden
        rows = len(hidden)
        x, attended = x.reshape(rows, width), attended.reshape(rows, width)
        for tile in self._tiles(rows, is_step):
            launch(
                dense_step.linear_residual(
                    **self._fused(f"{name}.attn.proj", tile), activations=_part(attended, tile), x=_part(x, tile)
                )
            )
            launch(
                dense_step.norm_linear_gelu(
                    **self._fused(f"{name}.mlp.0", tile),
                    norm=self._norm(f"{name}.ln2"),
                    x=_part(x, tile),
                    out=_part(hidden, tile),
                )
            )
            launch(
                dense_step.linear_residual(
                    **self._fused(f"{name}.mlp.2", tile), activations=_part(hidden, tile), x=_part(x, tile)
                )
            )
        if self._is_fused(rows, is_step):
            return
        if rows <= self._kernel_rows:
            self._multiply(f"{name}.attn.proj", "residual", attended, x)
            self._multiply(f"{name}.mlp.0", "gelu", self._normalise(f"{name}.ln2", x, rows, scratch), hidden)
            self._multiply(f"{name}.mlp.2", "residual", hidden, x)
            return
        self._add_product(f"{name}.attn.proj", attended, x, scratch)
        normed = self._normalise(f"{name}.ln2", x, rows, scratch)
        self._device.gemm(normed, self._matrix(f"{name}.mlp.0"), hidden)
        launch(bias_gelu(y=int(hidden.pointer), bias=self._bias(f"{name}.mlp.0"), rows=rows, columns=4 * width))
        self._add_product(f"{name}.mlp.2", hidden, x, scratch)

    def _multiply(self, name: str, kind: DenseKind, activations: DeviceArray, out: DeviceArray) -> None:
        """Launch a product of 9 to 64 rows with what stands behind it."""
        launch = dense_rows.dense_rows(
            self._rows_plan(f"{name}.weight", len(activations)),
            kind,
            layer=self._layer(name),
            workspace=self._workspace(),
            activations=int(activations.pointer),
            out=int(out.pointer),
        )
        self._device.launch(launch)

    def _add_product(self, name: str, activations: DeviceArray, x: DeviceArray, scratch: _Scratch) -> None:
        """Add a layer of many rows to the residual stream."""
        summed = scratch.summed
        self._device.gemm(activations, self._matrix(name), summed)
        rows, columns = summed.shape
        self._device.launch(
            bias_residual(y=int(summed.pointer), bias=self._bias(name), x=int(x.pointer), rows=rows, columns=columns)
        )

    def _normalise(self, name: str, x: DeviceArray, rows: int, scratch: _Scratch) -> DeviceArray:
        norm = self._norm(name)
        self._device.launch(
            layer_norm(
                x=int(x.pointer),
                gain=norm.gain,
                bias=norm.bias,
                out=int(scratch.normed.pointer),
                rows=rows,
                hidden_size=self._spec.hidden_size,
                epsilon=norm.epsilon,
            )
        )
        return scratch.normed

    # --- memory -------------------------------------------------------------------------------------------------------

    def _scratch(self, rows: int, *, step: bool) -> _Scratch:
        """Return what a layer of ``rows`` rows needs; that of steps stays where it is."""
        if step:
            if rows not in self._steps:
                self._steps[rows] = self._new_scratch(rows)
            return self._steps[rows]
        if self._longer is None or len(self._longer.normed) < rows:
            if self._longer is not None:
                self._longer.free()
            self._longer = self._new_scratch(rows)
        width, longer = self._spec.hidden_size, self._longer
        return _Scratch(
            longer.normed.leading(rows, width),
            longer.summed.leading(rows, width),
            longer.hidden.leading(rows, 4 * width),
        )

    def _new_scratch(self, rows: int) -> _Scratch:
        width, allocate = self._spec.hidden_size, self._device.allocate
        return _Scratch(allocate((rows, width), HALF), allocate((rows, width), HALF), allocate((rows, 4 * width), HALF))

    def _matrix(self, name: str) -> DeviceArray:
        """Return a matrix as it is, (N, K), uploaded when it is first asked for."""
        key = f"{name}.weight"
        if key not in self._arrays:
            self._arrays[key] = upload_new(self._device, self._tensors[key].astype(HALF, copy=False))
        return self._arrays[key]

    def _bias(self, name: str) -> int:
        return int(self._arrays[f"{name}.bias"].pointer)

    def _norm(self, name: str) -> NormAddresses:
        return NormAddresses(gain=int(self._arrays[f"{name}.weight"].pointer), bias=self._bias(name))

    def _plan(self, matrix: str, rows: int) -> dense_step.DenseStep:
        outputs, inputs = self._tensors[matrix].shape
        return plan_dense_step(
            outputs=outputs,
            inputs=inputs,
            rows=rows,
            multiprocessors=self._device.multiprocessors,
            same_bits=self._deterministic,
        )

    def _fused(self, name: str, tile: slice) -> _Fused:
        return _Fused(
            plan=self._plan(f"{name}.weight", tile.stop - tile.start),
            layer=self._layer(name),
            workspace=self._workspace(),
        )

    def _rows_plan(self, matrix: str, rows: int) -> dense_rows.DenseRows:
        outputs, inputs = self._tensors[matrix].shape
        return plan_dense_rows(outputs=outputs, inputs=inputs, rows=rows, multiprocessors=self._device.multiprocessors)

    def _layer(self, name: str) -> LinearAddresses:
        bias = self._arrays.get(f"{name}.bias")
        weights = int(self._packed[f"{name}.weight"].pointer)
        return LinearAddresses(weights=weights, bias=0 if bias is None else int(bias.pointer))

    def _workspace(self) -> Workspace:
        return Workspace(partials=int(self._partials.pointer), tickets=int(self._tickets.pointer))


def _part(array: DeviceArray, tile: slice) -> int:
    """Return the address of some rows."""
    return int(array.rows(tile.start, tile.stop).pointer)
