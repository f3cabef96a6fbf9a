"""The steps of a VQGAN's encoder and decoder, as kernels/cpu/network.hpp takes them.

Layers and names follow the published modules, as ``export`` writes them. A norm and its swish belong to the convolution
behind them, and a residual addition to the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from trt_vqgan.spec import AutoencoderSpec

Mode = Literal["same", "halve", "double"]
SHORTCUTS = ("nin_shortcut", "conv_shortcut")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step. Values are numbered from 0, what comes in; each step makes the next one.

    Attributes
    ----------
    kind : "convolve", "attend", "shrink" (the mean of 2x2 pixels) or "repeat" (each pixel twice).
    read : the value that it reads; of attention the queries.
    conv : name of a convolution's layer.
    mode : of a convolution: to as many pixels, to every second one, or of the picture with each pixel twice.
    norm : name of the norm that what is read goes through first; None for none.
    swish : whether swish follows the norm.
    add : the value that is added to the result; None for none.
    key, value : of attention.
    """

    kind: Literal["convolve", "attend", "shrink", "repeat"]
    read: int
    conv: str = ""
    mode: Mode = "same"
    norm: str | None = None
    swish: bool = False
    add: int | None = None
    key: int = 0
    value: int = 0


def encoder_steps(spec: AutoencoderSpec, *, has: Callable[[str], bool]) -> list[Step]:
    """Return the steps from a picture to latents, or to logits with a Gumbel quantizer.

    Parameters
    ----------
    spec : the VQGAN.
    has : whether there is a layer of a name, for the shortcuts of blocks.
    """
    program = _Program(spec, has)
    x = program.conv(0, "encoder.conv_in")
    side, last = spec.resolution, len(spec.channel_multipliers) - 1
    for i in range(last + 1):
        x = program.level(x, f"encoder.down.{i}", blocks=spec.num_res_blocks, side=side)
        if i < last:
            x = program.resample(x, f"encoder.down.{i}.downsample.conv", "halve")
            side //= 2
    x = program.middle(x, "encoder.mid")
    x = program.conv(x, "encoder.conv_out", norm="encoder.norm_out", swish=True)
    if spec.quantizer != "gumbel" or spec.gumbel_input == "quant_conv":
        x = program.conv(x, "quant_conv")
    if spec.quantizer == "gumbel":
        program.conv(x, "quantize.proj")
    return program.steps


def decoder_steps(spec: AutoencoderSpec, *, has: Callable[[str], bool]) -> list[Step]:
    """Return the steps from entries of the codebook to a picture; parameters as for `encoder_steps`."""
    program = _Program(spec, has)
    x = program.conv(0, "post_quant_conv")
    x = program.conv(x, "decoder.conv_in")
    x = program.middle(x, "decoder.mid")
    side = spec.latent_size
    for i in reversed(range(len(spec.channel_multipliers))):
        x = program.level(x, f"decoder.up.{i}", blocks=spec.num_res_blocks + 1, side=side)
        if i > 0:
            x = program.resample(x, f"decoder.up.{i}.upsample.conv", "double")
            side *= 2
    program.conv(x, "decoder.conv_out", norm="decoder.norm_out", swish=True)
    return program.steps


class _Program:
    """Writes one layer after the other; methods take and return numbers of values."""

    def __init__(self, spec: AutoencoderSpec, has: Callable[[str], bool]) -> None:
        self._spec, self._has = spec, has
        self.steps: list[Step] = []

    def _append(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps)

    def conv(
        self,
        x: int,
        name: str,
        *,
        mode: Mode = "same",
        norm: str | None = None,
        swish: bool = False,
        add: int | None = None,
    ) -> int:
        return self._append(Step(kind="convolve", read=x, conv=name, mode=mode, norm=norm, swish=swish, add=add))

    def block(self, x: int, name: str) -> int:
        y = self.conv(x, f"{name}.conv1", norm=f"{name}.norm1", swish=True)
        for shortcut in SHORTCUTS:
            if self._has(f"{name}.{shortcut}"):
                x = self.conv(x, f"{name}.{shortcut}")
        return self.conv(y, f"{name}.conv2", norm=f"{name}.norm2", swish=True, add=x)

    def attention(self, x: int, name: str) -> int:
        query, key, value = (self.conv(x, f"{name}.{part}", norm=f"{name}.norm") for part in ("q", "k", "v"))
        y = self._append(Step(kind="attend", read=query, key=key, value=value))
        return self.conv(y, f"{name}.proj_out", add=x)

    def level(self, x: int, name: str, *, blocks: int, side: int) -> int:
        for i in range(blocks):
            x = self.block(x, f"{name}.block.{i}")
            if self._spec.use_attention and side in self._spec.attention_resolutions:
                x = self.attention(x, f"{name}.attn.{i}")
        return x

    def middle(self, x: int, name: str) -> int:
        x = self.block(x, f"{name}.block_1")
        if self._spec.use_attention:
            x = self.attention(x, f"{name}.attn_1")
        return self.block(x, f"{name}.block_2")

    def resample(self, x: int, name: str, mode: Literal["halve", "double"]) -> int:
        if self._spec.resample_with_conv:
            return self.conv(x, name, mode=mode)
        return self._append(Step(kind="shrink" if mode == "halve" else "repeat", read=x))
