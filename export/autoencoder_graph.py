"""ONNX graphs of a VQGAN's encoder and decoder, of standard operators only.

Activations are float32 (B, C, H, W) with B, H and W dynamic. Layers and weight names follow ``vqgan_modules``, so the
published keys are the names of the initializers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from trt_vqgan.errors import ExportError
from trt_vqgan.export.graph_builder import ArraySource, GraphBuilder
from trt_vqgan.spec import AutoencoderSpec

WeightDtype = Literal["fp32", "fp16"]

GROUPS = 32
EPSILON = 1e-6
_SHORTCUTS = ("nin_shortcut", "conv_shortcut")


def encoder_graph(
    spec: AutoencoderSpec, weights: Mapping[str, ArraySource], *, weight_dtype: WeightDtype = "fp32"
) -> onnx.ModelProto:
    """Return the encoder: ``image`` float32 (B, in_channels, H, W) in [-1, 1] to what codes are chosen by.

    Parameters
    ----------
    spec : sizes of the VQGAN. H and W are multiples of ``spec.factor``.
    weights : published keys (``encoder.conv_in.weight`` …) without a prefix; others are ignored.
    weight_dtype : dtype of the convolutions' kernels in the file; they compute in float32 either way.

    Returns
    -------
    A model whose output is ``z`` float32 (B, D, h, w), latents after quant_conv, or for a Gumbel quantizer ``logits``
    float32 (B, N, h, w).

    Raises
    ------
    ExportError
        For a missing weight, or one that does not fit float16.
    """
    layers = LayerWriter("encoder", spec, weights, weight_dtype)
    x = layers.encoder(layers.graph.input("image", np.float32, ["B", spec.in_channels, "H", "W"]))
    if spec.quantizer == "gumbel":
        layers.graph.output("logits", np.float32, ["B", spec.codebook_size, "h", "w"], x)
    else:
        layers.graph.output("z", np.float32, ["B", spec.code_dim, "h", "w"], x)
    return layers.graph.model()


def decoder_graph(
    spec: AutoencoderSpec, weights: Mapping[str, ArraySource], *, weight_dtype: WeightDtype = "fp32"
) -> onnx.ModelProto:
    """Return the decoder: ``codes`` int64 (B, h, w) in [0, N) to ``pixels`` float32 (B, out_channels, H, W).

    Pixels are about [-1, 1] and not clipped. The codebook is inside, always in float32, so the file is usable alone.
    Parameters and errors as for ``encoder_graph``.

    Notes
    -----
    Activations of one picture in ONNX Runtime stay below 8 x 4 bytes x max over levels i of H W / 4^i x the larger of
    the widths of levels i and i + 1 (the upsampled picture keeps the width of the level below), plus 3 x 4 bytes x
    (h w)^2 for the attention. Measured, as multiples of the first term's 4 H W C: f16 decoder 4.7 to 7.2 without the
    CPU arena, 7.5 to 7.8 with it; f8 decoder (1, 2, 2, 4) 4.2 to 7.1; encoders 3.1 to 4.2, and 6.1 with the arena.
    """
    layers = LayerWriter("decoder", spec, weights, weight_dtype)
    graph = layers.graph
    codes = graph.input("codes", np.int64, ["B", "h", "w"])
    codebook = graph.weight(*layers.source(codebook_key(spec)))
    x = graph.node("Transpose", [graph.node("Gather", [codebook, codes])], perm=[0, 3, 1, 2])
    graph.output("pixels", np.float32, ["B", spec.out_channels, "H", "W"], layers.decoder(x))
    return graph.model()


def codebook_key(spec: AutoencoderSpec) -> str:
    """Return the published key of the codebook, float32 (N, D)."""
    return "quantize.embed.weight" if spec.quantizer == "gumbel" else "quantize.embedding.weight"


class LayerWriter:
    """Writes one layer of ``vqgan_modules`` after the other into a graph; methods take and return value names."""

    def __init__(
        self, name: str, spec: AutoencoderSpec, weights: Mapping[str, ArraySource], weight_dtype: WeightDtype
    ) -> None:
        self.graph = GraphBuilder(name)
        self._spec = spec
        self._weights = weights
        self._stored = np.float16 if weight_dtype == "fp16" else np.float32

    def source(self, name: str) -> tuple[str, ArraySource]:
        """Return a weight's name and array."""
        if name not in self._weights:
            raise ExportError(f"{self.graph.name} graph: weight {name!r} is missing; the spec asks for it")
        return name, self._weights[name]

    def encoder(self, x: str) -> str:
        """The whole encoder: a picture (B, C, H, W) to latents (B, D, h, w) or Gumbel's logits (B, N, h, w)."""
        spec = self._spec
        x = self.conv(x, "encoder.conv_in")
        side = spec.resolution
        last = len(spec.channel_multipliers) - 1
        for i in range(last + 1):
            x = self.level(x, f"encoder.down.{i}", blocks=spec.num_res_blocks, side=side)
            if i < last:
                x = self.downsample(x, f"encoder.down.{i}.downsample")
                side //= 2
        x = self.middle(x, "encoder.mid")
        x = self.conv(self.swish(self.norm(x, "encoder.norm_out")), "encoder.conv_out")
        if spec.quantizer != "gumbel" or spec.gumbel_input == "quant_conv":
            x = self.conv(x, "quant_conv")
        return self.conv(x, "quantize.proj") if spec.quantizer == "gumbel" else x

    def decoder(self, x: str) -> str:
        """The whole decoder: entries of the codebook (B, D, h, w) to a picture (B, C, H, W)."""
        spec = self._spec
        x = self.conv(x, "post_quant_conv")
        x = self.conv(x, "decoder.conv_in")
        x = self.middle(x, "decoder.mid")
        side = spec.latent_size
        for i in reversed(range(len(spec.channel_multipliers))):
            x = self.level(x, f"decoder.up.{i}", blocks=spec.num_res_blocks + 1, side=side)
            if i > 0:
                x = self.upsample(x, f"decoder.up.{i}.upsample")
                side *= 2
        return self.conv(self.swish(self.norm(x, "decoder.norm_out")), "decoder.conv_out")

    def conv(self, x: str, name: str, *, stride: int = 1, pads: tuple[int, int, int, int] | None = None) -> str:
        """Convolution; ``pads`` top, left, bottom, right, by default those that keep the size."""
        kernel = self.graph.weight(*self.source(f"{name}.weight"), stored=self._stored)
        bias = self.graph.weight(*self.source(f"{name}.bias"))
        side = self._weights[f"{name}.weight"].shape[2]
        return self.graph.node(
            "Conv",
            [x, kernel, bias],
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=pads or [side // 2] * 4,
        )

    def norm(self, x: str, name: str) -> str:
        """GroupNorm(32, eps 1e-6), accurate where a group is nearly constant.

        Statistics are those of d = x - m with m the rounded mean: mean(d) repairs m, mean(d^2) - mean(d)^2 loses
        nothing because mean(d) is tiny. Means are taken along rows first and then over rows, which keeps float32 sums
        short. Largest error against float64 for a group of 4 x 256 x 256 (mean 3, deviation 0.01, then constant
        groups), and the least of 60 interleaved times of norm and swish for 128 x 256 x 256 on 2 threads of a shared
        machine, in ONNX Runtime 1.32 (1.24 has the same errors):

        ==============================================  =======  ========  =====
        this                                              7e-7         0   25 ms
        ReduceMean, Sub, mean(d^2) in short sums          6e-5      2e-3   25 ms
        ReduceMean, Sub, mean(d^2) in one sum each        7e-4       0.6   39 ms
        InstanceNormalization of a group                  7e-4       0.6   23 ms
        the same after subtracting the mean               1e-5      4e-4   25 ms
        LayerNormalization of a group                     3e-7         0   52 ms
        MeanVarianceNormalization                         3e-2       1.0   41 ms
        GroupNormalization (E[x^2] - E[x]^2)               1.8      1e-2   56 ms
        torch 2.13, contiguous                            3e-5         0
        ==============================================  =======  ========  =====
        """
        g = self.graph
        gamma, beta = (
            g.constant(np.asarray(self.source(f"{name}.{part}")[1], np.float32).reshape(1, GROUPS, -1))
            for part in ("weight", "bias")
        )
        by_group, by_channel = self._ints([0, GROUPS, -1]), self._ints([0, -1, 1, 1])

        def mean(value: str) -> str:
            rows = g.node("ReduceMean", [value, self._ints([3])])
            return g.node("ReduceMean", [g.node("Reshape", [rows, by_group]), self._ints([2])])

        grouped = g.node("Reshape", [x, by_group])
        d = g.node("Reshape", [g.node("Sub", [grouped, mean(x)]), g.node("Shape", [x])])
        rest = mean(d)
        variance = g.node("Sub", [mean(g.node("Mul", [d, d])), g.node("Mul", [rest, rest])])
        deviation = g.node("Sqrt", [g.node("Add", [variance, g.constant(EPSILON, dtype=np.float32)])])
        scale = g.node("Div", [gamma, deviation])  # (B, 32, C / 32)
        shift = g.node("Sub", [beta, g.node("Mul", [scale, rest])])
        scaled = g.node("Mul", [d, g.node("Reshape", [scale, by_channel])])
        return g.node("Add", [scaled, g.node("Reshape", [shift, by_channel])])

    def swish(self, x: str) -> str:
        """X times its sigmoid; ONNX Runtime makes one pass of the two nodes."""
        return self.graph.node("Mul", [x, self.graph.node("Sigmoid", [x])])

    def block(self, x: str, name: str) -> str:
        """Residual block."""
        y = self.conv(self.swish(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        y = self.conv(self.swish(self.norm(y, f"{name}.norm2")), f"{name}.conv2")
        for shortcut in _SHORTCUTS:
            if f"{name}.{shortcut}.weight" in self._weights:
                x = self.conv(x, f"{name}.{shortcut}")
        return self.graph.node("Add", [x, y])

    def attention(self, x: str, name: str) -> str:
        """Self-attention with one head over positions, added to its input."""
        g = self.graph
        y = self.norm(x, f"{name}.norm")
        channels = self.source(f"{name}.q.weight")[1].shape[0]
        flat = self._ints([0, channels, -1])
        q, k, v = (g.node("Reshape", [self.conv(y, f"{name}.{part}"), flat]) for part in ("q", "k", "v"))
        scores = g.node("MatMul", [g.node("Transpose", [q], perm=[0, 2, 1]), k])  # (B, queries, keys)
        scores = g.node("Mul", [scores, g.constant(channels**-0.5, dtype=np.float32)])
        mix = g.node("Transpose", [g.node("Softmax", [scores], axis=2)], perm=[0, 2, 1])
        y = g.node("Reshape", [g.node("MatMul", [v, mix]), g.node("Shape", [x])])
        return g.node("Add", [x, self.conv(y, f"{name}.proj_out")])

    def level(self, x: str, name: str, *, blocks: int, side: int) -> str:
        """The blocks of one resolution, each followed by attention where the level carries it."""
        for i in range(blocks):
            x = self.block(x, f"{name}.block.{i}")
            if self._spec.use_attention and side in self._spec.attention_resolutions:
                x = self.attention(x, f"{name}.attn.{i}")
        return x

    def middle(self, x: str, name: str) -> str:
        """Block, attention, block."""
        x = self.block(x, f"{name}.block_1")
        if self._spec.use_attention:
            x = self.attention(x, f"{name}.attn_1")
        return self.block(x, f"{name}.block_2")

    def downsample(self, x: str, name: str) -> str:
        """Stride-2 convolution padded right and bottom by one, or the mean of 2x2 pixels."""
        if self._spec.resample_with_conv:
            return self.conv(x, f"{name}.conv", stride=2, pads=(0, 0, 1, 1))
        return self.graph.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def upsample(self, x: str, name: str) -> str:
        """Nearest pixel twice, then a convolution where the spec has one.

        Folding both into four 2x2 convolutions was tried: 5 % of the f16 decoder's time (1.38 against 1.45 CPU seconds
        on one thread), for kernels of 16 taps instead of 9 in the file.
        """
        x = self.graph.node(
            "Resize",
            [x, "", self.graph.constant([1.0, 1.0, 2.0, 2.0], dtype=np.float32)],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        return self.conv(x, f"{name}.conv") if self._spec.resample_with_conv else x

    def _ints(self, values: list[int]) -> str:
        return self.graph.constant(values, dtype=np.int64)
