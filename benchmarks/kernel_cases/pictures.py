"""The kernels of a VQGAN's layers beside their definitions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches import picture_layout as layout_launches
from trt_vqgan.kernels.launches.conv2d import ConvPlan, Form
from trt_vqgan.kernels.launches.group_norm import GroupNormPlan
from trt_vqgan.kernels.launches.picture_attention import picture_attention as attention_launch
from trt_vqgan.kernels.packed_conv import pack_conv, pitch_of
from trt_vqgan.kernels.reference import picture_layout
from trt_vqgan.kernels.reference.conv2d import Mode, conv2d
from trt_vqgan.kernels.reference.group_norm import group_norm
from trt_vqgan.kernels.reference.picture_attention import picture_attention

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)
_ROUNDING = {HALF: 2.0**-11, FLOAT: 2.0**-24}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvCase:
    """A convolution of random pictures.

    Attributes
    ----------
    batch, height, width : of the pictures that are read.
    channels, outputs, side, mode, form : of the layer.
    dtype : of pictures and weights.
    has_residual : whether one is added.
    multiprocessors : chooses the tile: 1 takes the large one, many the small one.
    """

    batch: int = 1
    height: int = 5
    width: int = 7
    channels: int = 32
    outputs: int = 64
    side: int = 3
    mode: Mode = "same"
    form: Form = "half"
    dtype: np.dtype[Any] = HALF
    has_residual: bool = False
    multiprocessors: int = 10**6

    def check(self, runner: KernelRunner, *, relative: float, seed: int = 1) -> float:
        """Return the largest error beyond a rounding of the result, over the sum of the products' sizes.

        Raises
        ------
        AssertionError : it is above ``relative``, or something is written that shouldn't be.
        """
        rng = np.random.default_rng(self.channels * self.outputs + self.height)
        shape = (self.batch, self.height, self.width, self.channels)
        x = rng.standard_normal(shape).astype(self.dtype)
        weight = rng.standard_normal((self.outputs, self.channels, self.side, self.side)).astype(self.dtype)
        bias = rng.standard_normal(self.outputs).astype(np.float32)
        packed = pack_conv(weight, bias)
        pitch = pitch_of(self.outputs) if self.form == "half" or self.has_residual else self.outputs
        plan = ConvPlan(
            layer=packed.layer,
            batch=self.batch,
            height=self.height,
            width=self.width,
            mode=self.mode,
            form=self.form,
            pitch=pitch,
            multiprocessors=self.multiprocessors,
        )
        made = (self.batch, plan.made_height, plan.made_width)
        residual = rng.standard_normal((*made, self.outputs)).astype(self.dtype) if self.has_residual else None
        out = np.full((*made, pitch), np.nan, FLOAT if self.form == "float" else HALF)
        if self.form == "planes":
            out = np.full((self.batch, self.outputs, *made[1:]), np.nan, HALF)
        arrays = {"x": padded(x), "weights": packed.weights, "bias": packed.bias, "out": out}
        if residual is not None:
            arrays["residual"] = padded(residual)
        placed = {name: runner.place(array) for name, array in arrays.items()}
        runner.launch(plan.launch(**{name: int(runner.address(array)) for name, array in placed.items()}), seed=seed)
        found = placed["out"].transpose(0, 2, 3, 1) if self.form == "planes" else placed["out"]
        np.testing.assert_array_equal(found[..., self.outputs :], 0, "padded channels")
        wanted = conv2d(x, weight, bias, mode=self.mode, residual=residual)
        sizes = conv2d(np.abs(x), np.abs(weight), np.abs(bias), mode=self.mode)
        return error_within(found[..., : self.outputs], wanted, sizes, relative)


def padded(x: NDArray[Any]) -> NDArray[Any]:
    """Return pictures (B, H, W, C) with zeros up to the pitch."""
    out = np.zeros((*x.shape[:-1], pitch_of(x.shape[-1])), x.dtype)
    out[..., : x.shape[-1]] = x
    return out


def error_within(
    found: NDArray[Any], wanted: NDArray[np.float64], sizes: NDArray[np.float64] | float, relative: float
) -> float:
    """Return the largest error beyond a rounding to the dtype of ``found``, over ``sizes``; at most ``relative``."""
    error = np.abs(found.astype(np.float64) - wanted) - np.abs(wanted) * _ROUNDING[found.dtype]
    assert np.isfinite(error).all(), "not finite: unwritten, or read where nothing is"
    worst = float((error / sizes).max())
    assert worst <= relative, f"error {worst:.2e}, tolerance {relative:.1e}"
    return max(worst, 0.0)


def check_group_norm(
    runner: KernelRunner,
    shape: tuple[int, int, int, int],
    *,
    given: np.dtype[Any] = HALF,
    made: np.dtype[Any] = HALF,
    swish: bool = True,
    mean: float = 3.0,
    deviation: float = 1.0,
    absolute: float,
    seed: int = 1,
) -> float:
    """Return the largest error beyond a rounding of the result, at most ``absolute``, for pictures (B, H, W, C)."""
    rng = np.random.default_rng(shape[-1])
    batch, height, width, channels = shape
    x = (mean + deviation * rng.standard_normal(shape)).astype(given)
    gain, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    plan = GroupNormPlan(batch=batch, pixels=height * width, channels=channels, given=given, made=made)
    statistics = np.full(plan.statistics_bytes // 4, np.nan, np.float32)
    arrays = {"x": x, "gain": gain, "bias": bias, "out": np.full(shape, np.nan, made), "statistics": statistics}
    placed = {name: runner.place(array) for name, array in arrays.items()}
    for launch in plan.launches(**{name: int(runner.address(array)) for name, array in placed.items()}, swish=swish):
        runner.launch(launch, seed=seed)
    return error_within(placed["out"], group_norm(x, gain, bias, swish=swish), 1.0, absolute)


def check_attention(
    runner: KernelRunner,
    batch: int,
    positions: int,
    channels: int,
    *,
    dtype: np.dtype[Any] = HALF,
    absolute: float,
    spread: float = 1.0,
    seed: int = 1,
) -> float:
    """Return the largest error beyond a rounding of the result, at most ``absolute``; ``spread`` scales the queries."""
    rng = np.random.default_rng(positions + channels)
    pitch = channels + 8
    q, k, v = (np.full((batch, positions, pitch), np.nan, dtype) for _ in range(3))
    for array, scale in ((q, spread), (k, 1.0), (v, 1.0)):
        array[..., :channels] = scale * rng.standard_normal((batch, positions, channels))
    arrays = {"q": q, "k": k, "v": v, "out": np.full(q.shape, np.nan, dtype)}
    placed = {name: runner.place(array) for name, array in arrays.items()}
    launch = attention_launch(
        **{name: int(runner.address(array)) for name, array in placed.items()},
        batch=batch,
        positions=positions,
        channels=channels,
        pitch=pitch,
        dtype=dtype,
        shared_limit=99 << 10,
    )
    runner.launch(launch, seed=seed)
    assert np.isnan(placed["out"][..., channels:]).all(), "what lies beyond the channels is untouched"
    wanted = picture_attention(q[..., :channels], k[..., :channels], v[..., :channels])
    return error_within(placed["out"][..., :channels], wanted, 1.0, absolute)


def check_layout(runner: KernelRunner, shape: tuple[int, int, int, int], dtype: np.dtype[Any]) -> None:
    """Hold the kernels between the layers to their definitions' bits, for pictures (B, 2H, 2W, C) or such planes."""
    rng = np.random.default_rng(math.prod(shape))
    batch, height, width, channels = shape
    pitch = pitch_of(channels)
    planes = runner.place(rng.standard_normal((batch, channels, height, width)).astype(np.float32))
    last = runner.place(np.full((batch, height, width, pitch), np.nan, dtype))
    runner.launch(
        layout_launches.channels_last(
            planes=int(runner.address(planes)),
            out=int(runner.address(last)),
            batch=batch,
            channels=channels,
            plane=height * width,
            pitch=pitch,
            made=dtype,
        )
    )
    wanted = picture_layout.channels_last(np.array(planes), pitch).astype(dtype)
    np.testing.assert_array_equal(last, wanted, "channels_last")

    half = runner.place(np.full((batch, height // 2, width // 2, pitch), np.nan, dtype))
    place = {"x": int(runner.address(last)), "out": int(runner.address(half))}
    runner.launch(
        layout_launches.shrink(**place, rows=batch * (height // 2), width=width // 2, pitch=pitch, dtype=dtype)
    )
    np.testing.assert_array_equal(half, picture_layout.shrink(wanted).astype(dtype), "shrink")

    double = runner.place(np.full((batch, 2 * height, 2 * width, pitch), np.nan, dtype))
    place = {"x": int(runner.address(last)), "out": int(runner.address(double))}
    runner.launch(layout_launches.repeat(**place, rows=batch * height, width=width, pitch=pitch, dtype=dtype))
    np.testing.assert_array_equal(double, picture_layout.repeat(wanted), "repeat")

    other = HALF if dtype == FLOAT else FLOAT
    turned = runner.place(np.full(last.shape, np.nan, other))
    place = {"x": int(runner.address(last)), "out": int(runner.address(turned))}
    runner.launch(layout_launches.convert(**place, count=last.size, given=dtype, made=other))
    np.testing.assert_array_equal(turned, wanted.astype(other), "convert")


def check_argmax(runner: KernelRunner, rows: int, columns: int) -> None:
    """Hold argmax_rows to its definition, with ties, NaN and rows of one value."""
    rng = np.random.default_rng(columns)
    values = np.round(rng.standard_normal((rows, columns))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[0] = -np.inf
    placed = runner.place(values)
    codes = runner.place(np.full(rows, -7, np.int32))
    runner.launch(
        layout_launches.argmax_rows(
            x=int(runner.address(placed)), codes=int(runner.address(codes)), rows=rows, columns=columns, pitch=columns
        )
    )
    np.testing.assert_array_equal(codes, picture_layout.argmax_rows(values))
