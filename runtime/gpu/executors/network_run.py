"""One run of a VQGAN's network by our own kernels: its steps as launches, and the values between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trt_vqgan.errors import BundleError
from trt_vqgan.kernels.launches import picture_layout
from trt_vqgan.kernels.launches.conv2d import ConvPlan, Form
from trt_vqgan.kernels.launches.group_norm import GroupNormPlan
from trt_vqgan.kernels.launches.picture_attention import picture_attention
from trt_vqgan.kernels.packed_conv import pitch_of
from trt_vqgan.runtime.device.arrays import DeviceArray, Region
from trt_vqgan.runtime.device.interface import Device, zeros
from trt_vqgan.runtime.gpu.executors.network_weights import NetworkWeights
from trt_vqgan.runtime.native.network_program import Step

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Values channels last, (B, H, W, pitch), zero from ``channels`` on; whose memory is the caller's if borrowed."""

    array: DeviceArray
    channels: int
    is_borrowed: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float16, or float32 behind layers that compute in it."""
        return self.array.dtype

    def free(self) -> None:
        """Give the memory back."""
        if not self.is_borrowed:
            self.array.memory.free()


class NetworkRun:
    """Launches the steps of a network in order. A value's memory goes back with its last use.

    Parameters
    ----------
    device : with the kernels loaded.
    steps, weights : of the network.
    """

    def __init__(self, device: Device, steps: Sequence[Step], weights: NetworkWeights) -> None:
        self._device, self._steps, self._weights = device, steps, weights
        self._values: list[Pictures | None] = []
        self._normalised: tuple[tuple[int, str, bool, np.dtype[Any]], Pictures] | None = None
        self._last_uses: dict[int, int] = {}
        for i, step in enumerate(steps):
            uses = (step.read, step.key, step.value) if step.kind == "attend" else (step.read, step.add)
            self._last_uses |= {value: i for value in uses if value is not None}

    # --- what comes in ------------------------------------------------------------------------------------------------

    def from_planes(self, planes: DeviceArray) -> Pictures:
        """Return planes float32 (B, C, H, W) channels last, in the dtype that the first step reads."""
        batch, channels, height, width = planes.shape
        made = HALF if self._weights.convs[self._steps[0].conv].layer.is_half else FLOAT
        out = self._device.allocate((batch, height, width, pitch_of(channels)), made)
        self._device.launch(
            picture_layout.channels_last(
                planes=int(planes.pointer),
                out=int(out.pointer),
                batch=batch,
                channels=channels,
                plane=height * width,
                pitch=pitch_of(channels),
                made=made,
            )
        )
        return Pictures(out, channels)

    def from_entries(self, entries: DeviceArray) -> Pictures:
        """Return codebook entries (B, h, w, D), padded where D is no multiple of 8."""
        *sizes, depth = entries.shape
        pitch = pitch_of(depth)
        if pitch == depth:
            return Pictures(entries, depth, is_borrowed=True)
        out = zeros(self._device, (*sizes, pitch), entries.dtype)
        width, rows = depth * entries.dtype.itemsize, entries.size // depth
        target, source = Region(array=out, pitch=pitch * entries.dtype.itemsize), Region(array=entries, pitch=width)
        self._device.copy(target, source, width=width, rows=rows)
        return Pictures(out, depth)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def run(self, given: Pictures, made: DeviceArray, *, form: Form) -> None:
        """Launch all steps; the last, a convolution, writes ``made``: planes, or float32 (B, H, W, C)."""
        self._values = [given]
        for i, step in enumerate(self._steps):
            is_last = i == len(self._steps) - 1
            if step.kind == "convolve":
                self._values.append(self._convolve(step, made if is_last else None, form))
            elif step.kind == "attend":
                self._values.append(self._attend(step))
            else:
                self._values.append(self._resample(step))
            self._forget(i)
        self._drop_normalised()

    def _forget(self, i: int) -> None:
        """Drop what no step after number ``i`` reads."""
        for value, last in self._last_uses.items():
            if last == i:
                self._value(value).free()
                self._values[value] = None
                if self._normalised is not None and self._normalised[0][0] == value:
                    self._drop_normalised()

    def _drop_normalised(self) -> None:
        if self._normalised is not None:
            self._normalised[1].free()
            self._normalised = None

    def _value(self, index: int) -> Pictures:
        found = self._values[index]
        assert found is not None, "a value is read after its last use"
        return found

    def _convolve(self, step: Step, made: DeviceArray | None, form: Form) -> Pictures:
        conv = self._weights.convs[step.conv]
        dtype = HALF if conv.layer.is_half else FLOAT
        if step.norm is not None:
            x = self._normalise(step.read, step.norm, step.swish, dtype)
        else:
            x = self._as(self._value(step.read), dtype)
        if x.channels != conv.layer.channels:
            raise BundleError(
                f"{step.conv}: its weights take {conv.layer.channels} channels, {x.channels} come; export the bundle "
                "again"
            )
        batch, height, width, _ = x.array.shape
        pitch = conv.layer.outputs
        if made is None:
            pitch, form = pitch_of(pitch), "half" if conv.layer.is_half else "float"
        plan = ConvPlan(
            layer=conv.layer,
            batch=batch,
            height=height,
            width=width,
            mode=step.mode,
            form=form,
            pitch=pitch,
            multiprocessors=self._device.multiprocessors,
        )
        out = made
        if out is None:
            out = self._device.allocate((batch, plan.made_height, plan.made_width, pitch), dtype)
        added = None if step.add is None else self._value(step.add)
        residual = None if added is None else self._as(added, dtype)
        self._device.launch(
            plan.launch(
                x=int(x.array.pointer),
                weights=int(conv.weights.pointer),
                bias=int(conv.bias.pointer),
                out=int(out.pointer),
                residual=0 if residual is None else int(residual.array.pointer),
            )
        )
        if step.norm is None and x is not self._value(step.read):
            x.free()
        if residual is not None and residual is not added:
            residual.free()
        return Pictures(out, conv.layer.outputs)

    def _normalise(self, read: int, norm: str, swish: bool, dtype: np.dtype[Any]) -> Pictures:
        """Return a value behind its norm; queries, keys and values read the same one."""
        key = (read, norm, swish, dtype)
        if self._normalised is not None and self._normalised[0] == key:
            return self._normalised[1]
        x, parts = self._value(read), self._weights.norms[norm]
        if parts.gain.size != x.channels:
            raise BundleError(f"{norm}: has {parts.gain.size} channels, {x.channels} come; export the bundle again")
        self._drop_normalised()
        batch, height, width, channels = x.array.shape
        plan = GroupNormPlan(batch=batch, pixels=height * width, channels=channels, given=x.dtype, made=dtype)
        statistics = self._device.allocate((plan.statistics_bytes,), np.uint8)
        out = self._device.allocate(x.array.shape, dtype)
        for launch in plan.launches(
            x=int(x.array.pointer),
            gain=int(parts.gain.pointer),
            bias=int(parts.bias.pointer),
            out=int(out.pointer),
            statistics=int(statistics.pointer),
            swish=swish,
        ):
            self._device.launch(launch)
        statistics.memory.free()
        self._normalised = key, Pictures(out, x.channels)
        return self._normalised[1]

    def _attend(self, step: Step) -> Pictures:
        q, k, v = (self._value(index) for index in (step.read, step.key, step.value))
        batch, height, width, pitch = q.array.shape
        out = self._device.allocate(q.array.shape, q.dtype)
        self._device.launch(
            picture_attention(
                q=int(q.array.pointer),
                k=int(k.array.pointer),
                v=int(v.array.pointer),
                out=int(out.pointer),
                batch=batch,
                positions=height * width,
                channels=q.channels,
                pitch=pitch,
                dtype=q.dtype,
                shared_limit=self._device.shared_limit,
            )
        )
        return Pictures(out, q.channels)

    def _resample(self, step: Step) -> Pictures:
        x = self._value(step.read)
        batch, height, width, pitch = x.array.shape
        if step.kind == "shrink":
            out = self._device.allocate((batch, height // 2, width // 2, pitch), x.dtype)
            launch, rows, columns = picture_layout.shrink, batch * (height // 2), width // 2
        else:
            out = self._device.allocate((batch, 2 * height, 2 * width, pitch), x.dtype)
            launch, rows, columns = picture_layout.repeat, batch * height, width
        self._device.launch(
            launch(x=int(x.array.pointer), out=int(out.pointer), rows=rows, width=columns, pitch=pitch, dtype=x.dtype)
        )
        return Pictures(out, x.channels)

    def _as(self, x: Pictures, dtype: np.dtype[Any]) -> Pictures:
        """Return a value in a dtype."""
        if x.dtype == dtype:
            return x
        out = self._device.allocate(x.array.shape, dtype)
        self._device.launch(
            picture_layout.convert(
                x=int(x.array.pointer), out=int(out.pointer), count=x.array.size, given=x.dtype, made=dtype
            )
        )
        return Pictures(out, x.channels)
