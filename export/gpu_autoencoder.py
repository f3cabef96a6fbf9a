"""ONNX graphs of a VQGAN for GPUs, in FP16 where it is accurate, for builders that take every dtype as it stands.

=========== ========================================== ==================================================
graph       input                                      output
=========== ========================================== ==================================================
encoder     ``image`` float32 (B, C, H, W) in [-1, 1]  ``z`` float32 (B, h, w, D), latents, channels last;
                                                       for Gumbel ``codes`` int32 (B, h, w)
decoder     ``latents`` (B, h, w, D), codebook rows    ``pixels`` (B, C, H, W), about [-1, 1]
=========== ========================================== ==================================================

``latents`` and ``pixels`` are float16, or float32 in the fp32 twin that tests run on the CPU. Convolutions and products
are FP16 with accumulation in FP32 by the builder; statistics of norms (``stash_type`` 1) and softmax are FP32. What an
encoder's codes are chosen by is computed in FP32 from `ENCODER_TAIL` on. Layers named in ``wider`` compute in FP32, for
values that FP16 can't hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import onnx

from trt_vqgan.export.autoencoder_graph import EPSILON, GROUPS, LayerWriter
from trt_vqgan.export.graph_builder import ArraySource, GraphBuilder, LazyArray
from trt_vqgan.spec import AutoencoderSpec

GpuDtype = Literal["fp16", "fp32"]
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
FLOAT32 = np.dtype(np.float32)

ENCODER_TAIL = ("quant_conv", "quantize.proj")
"""Wider in every encoder, so that latents aren't rounded before codes are chosen by them."""


def gpu_encoder_graph(
    spec: AutoencoderSpec,
    weights: Mapping[str, ArraySource],
    *,
    dtype: GpuDtype = "fp16",
    wider: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the encoder.

    Parameters
    ----------
    spec : sizes of the VQGAN. H and W are multiples of ``spec.factor``.
    weights : published keys (``encoder.conv_in.weight`` …) without a prefix; others are ignored.
    dtype : of activations and weights.
    wider : layers that compute in float32, beside `ENCODER_TAIL`.

    Raises
    ------
    ExportError
        For a missing weight, or one that does not fit float16.
    """
    layers, x = encoder_layers(spec, weights, dtype=dtype, wider=wider)
    graph = layers.graph
    if spec.quantizer == "gumbel":
        best = graph.node("ArgMax", [x], axis=1, keepdims=0)
        codes = graph.node("Cast", [best], to=onnx.TensorProto.INT32)
        graph.output("codes", np.int32, ["B", "h", "w"], codes)
    else:
        graph.output("z", np.float32, ["B", "h", "w", spec.code_dim], graph.node("Transpose", [x], perm=[0, 2, 3, 1]))
    return graph.model()


def gpu_decoder_graph(
    spec: AutoencoderSpec,
    weights: Mapping[str, ArraySource],
    *,
    dtype: GpuDtype = "fp16",
    wider: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the decoder; parameters and errors as for `gpu_encoder_graph`."""
    layers, x = decoder_layers(spec, weights, dtype=dtype, wider=wider)
    usual = NUMPY_DTYPES[dtype]
    layers.graph.output("pixels", usual, ["B", spec.out_channels, "H", "W"], layers.cast(x, usual))
    return layers.graph.model()


def encoder_layers(
    spec: AutoencoderSpec, weights: Mapping[str, ArraySource], *, dtype: GpuDtype, wider: Collection[str]
) -> tuple[GpuLayerWriter, str]:
    """Return the writer of an encoder that has no output yet, and what it makes: (B, D, h, w), or Gumbel's logits."""
    layers = GpuLayerWriter("encoder", spec, weights, dtype=dtype, wider={*wider, *ENCODER_TAIL})
    image = layers.graph.input("image", np.float32, ["B", spec.in_channels, "H", "W"])
    return layers, layers.encoder(layers.given(image, FLOAT32))


def decoder_layers(
    spec: AutoencoderSpec, weights: Mapping[str, ArraySource], *, dtype: GpuDtype, wider: Collection[str]
) -> tuple[GpuLayerWriter, str]:
    """Return the writer of a decoder that has no output yet, and what it makes: (B, C, H, W)."""
    layers = GpuLayerWriter("decoder", spec, weights, dtype=dtype, wider=wider)
    latents = layers.graph.input("latents", NUMPY_DTYPES[dtype], ["B", "h", "w", spec.code_dim])
    first = layers.given(layers.graph.node("Transpose", [latents], perm=[0, 3, 1, 2]), NUMPY_DTYPES[dtype])
    return layers, layers.decoder(first)


class GpuLayerWriter(LayerWriter):
    """Writes layers in one dtype, and some of them wider.

    A layer is what may be named in ``wider``: a residual block, an attention, a resampling, or a convolution outside of
    them. ``values`` collects, for each layer, the values that it reads and makes; what a layer reads is cast to its
    dtype.
    """

    def __init__(
        self,
        name: str,
        spec: AutoencoderSpec,
        weights: Mapping[str, ArraySource],
        *,
        dtype: GpuDtype,
        wider: Collection[str],
    ) -> None:
        super().__init__(name, spec, weights, "fp32")
        self.graph = GraphBuilder(name, opset=21)
        self.values: dict[str, list[str]] = {}
        self._usual = NUMPY_DTYPES[dtype]
        self._wider = frozenset(wider)
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._layers: list[str] = []

    def given(self, value: str, dtype: np.dtype[Any]) -> str:
        """Return ``value``, whose dtype is now known."""
        self._dtypes[value] = dtype
        return value

    def cast(self, value: str, dtype: np.dtype[Any]) -> str:
        """Return ``value`` in ``dtype``."""
        if self._dtypes[value] == dtype:
            return value
        to = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self.given(self.graph.node("Cast", [value], to=to), dtype)

    def conv(self, x: str, name: str, *, stride: int = 1, pads: tuple[int, int, int, int] | None = None) -> str:
        """Convolution; ``pads`` as in the float32 graph."""
        with self._layer(name) as dtype:
            kernel, bias = (self._weight(f"{name}.{part}", dtype) for part in ("weight", "bias"))
            side = self._weights[f"{name}.weight"].shape[2]
            inputs = [self._read(x, dtype), kernel, bias]
            return self._made(
                self.graph.node(
                    "Conv", inputs, kernel_shape=[side, side], strides=[stride, stride], pads=pads or [side // 2] * 4
                ),
                dtype,
            )

    def norm(self, x: str, name: str) -> str:
        """GroupNorm(32, eps 1e-6), statistics in float32.

        One node, which a builder turns into one kernel. The fp32 twin has the accurate form of the CPU graphs: ONNX
        Runtime computes this node as E[x^2] - E[x]^2.
        """
        with self._layer(name) as dtype:
            x = self._read(x, dtype)
            if self._usual == FLOAT32:
                return self._made(super().norm(x, name), dtype)
            scale, shift = (self._weight(f"{name}.{part}", dtype) for part in ("weight", "bias"))
            return self._made(
                self.graph.node(
                    "GroupNormalization", [x, scale, shift], num_groups=GROUPS, epsilon=EPSILON, stash_type=1
                ),
                dtype,
            )

    def swish(self, x: str) -> str:
        """X times its sigmoid."""
        return self.given(super().swish(x), self._dtypes[x])

    def block(self, x: str, name: str) -> str:
        """Residual block."""
        with self._layer(name) as dtype:
            return self._made(super().block(self._read(x, dtype), name), dtype)

    def attention(self, x: str, name: str) -> str:
        """Self-attention with one head over positions, added to its input; the softmax in float32.

        Queries are scaled before their product with keys, which FP16 could not hold otherwise.
        """
        g = self.graph
        with self._layer(name) as dtype:
            x = self._read(x, dtype)
            y = self.norm(x, f"{name}.norm")
            channels = self.source(f"{name}.q.weight")[1].shape[0]
            flat = g.constant([0, channels, -1], dtype=np.int64)
            q, k, v = (g.node("Reshape", [self.conv(y, f"{name}.{part}"), flat]) for part in ("q", "k", "v"))
            q = g.node("Mul", [q, g.constant(channels**-0.5, dtype=dtype)])
            product = g.node("MatMul", [g.node("Transpose", [q], perm=[0, 2, 1]), k])  # (B, queries, keys)
            scores = self.cast(self._made(product, dtype), FLOAT32)
            shares = self.cast(self.given(g.node("Softmax", [scores], axis=2), FLOAT32), dtype)
            mix = g.node("MatMul", [v, g.node("Transpose", [shares], perm=[0, 2, 1])])
            y = self._made(g.node("Reshape", [mix, g.node("Shape", [x])]), dtype)
            return self._made(g.node("Add", [x, self.conv(y, f"{name}.proj_out")]), dtype)

    def downsample(self, x: str, name: str) -> str:
        """Stride-2 convolution padded right and bottom by one, or the mean of 2x2 pixels."""
        with self._layer(name) as dtype:
            return self._made(super().downsample(self._read(x, dtype), name), dtype)

    def upsample(self, x: str, name: str) -> str:
        """Nearest pixel twice, then a convolution where the spec has one."""
        with self._layer(name) as dtype:
            return self._made(super().upsample(self._read(x, dtype), name), dtype)

    @contextlib.contextmanager
    def _layer(self, name: str) -> Iterator[np.dtype[Any]]:
        """Enter layer ``name``, or a part of the layer that is being written; yields the dtype that it computes in."""
        self._layers.append(name)
        try:
            yield FLOAT32 if self._layers[0] in self._wider else self._usual
        finally:
            self._layers.pop()

    def _read(self, x: str, dtype: np.dtype[Any]) -> str:
        x = self.cast(x, dtype) if x in self._dtypes else self.given(x, dtype)
        return self._made(x, dtype)

    def _made(self, value: str, dtype: np.dtype[Any]) -> str:
        self.values.setdefault(self._layers[0], []).append(value)
        return self.given(value, dtype)

    def _weight(self, name: str, dtype: np.dtype[Any]) -> str:
        _, source = self.source(name)

        def load() -> np.ndarray[Any, Any]:
            with np.errstate(over="ignore"):  # a weight that doesn't fit is refused, by name, when it is written
                return np.asarray(source, dtype=np.float32).astype(dtype)

        return self.graph.weight(name, LazyArray(tuple(source.shape), dtype, load))
