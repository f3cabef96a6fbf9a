"""What a model is, in the field's own names: frozen, validated once, free of any framework.

The published configs' names (``n_embed``, ``n_embd``, ``ddconfig`` …) are translated to these in
``export/translate.py`` and nowhere else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from trt_vqgan.errors import SpecError

QuantizerKind = Literal["nearest", "gumbel"]
GumbelInput = Literal["quant_conv", "encoder"]
Modality = Literal["image", "depth", "segmentation"]
ConditionKind = Literal["unconditional", "class", "coordinates", "boxes", "autoencoder"]
LayoutForm = Literal["boxes", "boxes+crop", "points", "points+crop"]

LAYOUT_TOKENS: dict[LayoutForm, tuple[int, int]] = {
    "boxes": (3, 0),
    "boxes+crop": (3, 2),
    "points": (2, 0),
    "points+crop": (2, 2),
}
"""Tokens an object, and those of the crop, of a scene model's layout: boxes by two corners, or their centre points."""


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise SpecError(what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """A VQGAN: encoder, quantizer and decoder.

    Attributes
    ----------
    quantizer : "nearest" (argmin of squared distance) or "gumbel" (argmax of a projection).
    in_channels, out_channels : channels of the picture or condition map that it reads and writes.
    base_channels, channel_multipliers, num_res_blocks : widths and depth, one multiplier a level.
    attention_resolutions : sides (of the training picture) at which a level carries attention.
    resolution : side of the training picture, pixels.
    z_channels, code_dim : channels of the encoder's output and of a codebook entry.
    codebook_size : entries that can be coded (after remapping).
    resample_with_conv, conv_shortcut, use_attention : variants of the published blocks.
    gumbel_input : which layer's output a Gumbel projection reads.
    modality : what the channels mean.
    """

    quantizer: QuantizerKind
    in_channels: int
    out_channels: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int
    code_dim: int
    codebook_size: int
    resample_with_conv: bool = True
    conv_shortcut: bool = False
    use_attention: bool = True
    gumbel_input: GumbelInput = "quant_conv"
    modality: Modality = "image"

    def __post_init__(self) -> None:
        for name in (
            "in_channels",
            "out_channels",
            "base_channels",
            "num_res_blocks",
            "resolution",
            "z_channels",
            "code_dim",
            "codebook_size",
        ):
            _require(getattr(self, name) >= 1, f"autoencoder {name} is {getattr(self, name)}, wanted at least 1")
        _require(len(self.channel_multipliers) >= 1, "autoencoder channel_multipliers is empty")
        _require(
            self.resolution % self.factor == 0,
            f"autoencoder resolution {self.resolution} is no multiple of its factor {self.factor}",
        )
        for mult in self.channel_multipliers:
            _require(
                mult >= 1 and self.base_channels * mult % 32 == 0,
                f"autoencoder level width {self.base_channels}x{mult} is no multiple of 32 (GroupNorm groups)",
            )
        _require(self.base_channels % 32 == 0, f"base_channels {self.base_channels} is no multiple of 32")

    @property
    def factor(self) -> int:
        """Pixels a code, along one side."""
        return 1 << (len(self.channel_multipliers) - 1)

    @property
    def latent_size(self) -> int:
        """Side of the training picture's latent grid, codes."""
        return self.resolution // self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """A GPT over codes.

    ``num_unmasked`` leading positions see each other both ways. ``one_pass`` (published ``pkeep <= 0``): all
    codes are predicted at once from the condition.
    """

    vocab_size: int
    max_seq_len: int
    num_layers: int
    num_heads: int
    hidden_size: int
    num_unmasked: int = 0
    one_pass: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_seq_len", "num_layers", "num_heads", "hidden_size"):
            _require(getattr(self, name) >= 1, f"transformer {name} is {getattr(self, name)}, wanted at least 1")
        _require(self.num_unmasked >= 0, f"transformer num_unmasked is {self.num_unmasked}, wanted at least 0")
        _require(
            self.hidden_size % self.num_heads == 0,
            f"transformer hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}",
        )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionSpec:
    """What comes before the picture's codes.

    Attributes
    ----------
    kind : "unconditional" (one constant token), "class" (one token, the class id), "coordinates" (a coordinate map,
        area-downsampled and rounded), "boxes" (tokens given as they are) or "autoencoder" (codes of a VQGAN).
    sos_token : the constant token of "unconditional".
    num_classes : classes of "class".
    coordinate_levels, coordinate_factor : the published CoordStage's ``n_embed`` and ``down_factor``.
    autoencoder : the condition's own VQGAN; None with ``shares_first_stage``.
    shares_first_stage : the picture's own VQGAN encodes the condition.
    downsample_size : side to which the condition map is resized (nearest) before encoding; 0 for not at all.
    num_tokens : condition tokens of a training-size picture.
    """

    kind: ConditionKind
    num_tokens: int
    sos_token: int = 0
    num_classes: int = 0
    coordinate_levels: int = 0
    coordinate_factor: int = 0
    autoencoder: AutoencoderSpec | None = None
    shares_first_stage: bool = False
    downsample_size: int = 0

    def __post_init__(self) -> None:
        _require(self.num_tokens >= 1, f"condition num_tokens is {self.num_tokens}, wanted at least 1")
        if self.kind == "class":
            _require(self.num_classes >= 1, f"condition num_classes is {self.num_classes}, wanted at least 1")
        if self.kind == "coordinates":
            _require(
                self.coordinate_levels >= 1 and self.coordinate_factor >= 1,
                "a coordinate condition needs coordinate_levels and coordinate_factor of at least 1",
            )
        if self.kind == "autoencoder":
            _require(
                (self.autoencoder is not None) != self.shares_first_stage,
                "an autoencoder condition needs its own autoencoder or shares_first_stage, not both",
            )

    @property
    def modality(self) -> Modality | None:
        """What the condition's own autoencoder reads; None where there is no such autoencoder."""
        return self.autoencoder.modality if self.autoencoder is not None else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A VQGAN, or a VQGAN with a transformer and its condition.

    ``permutation[i]`` is the raster index of the i-th code in the model's own order; None for raster order.
    """

    autoencoder: AutoencoderSpec
    transformer: TransformerSpec | None = None
    condition: ConditionSpec | None = None
    permutation: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require(
            (self.transformer is None) == (self.condition is None),
            "a transformer and a condition belong together",
        )
        if self.transformer is None or self.condition is None:
            _require(self.permutation is None, "a permutation needs a transformer")
            return
        codes = self.num_codes
        needed = self.condition.num_tokens + codes - 1
        _require(
            needed <= self.transformer.max_seq_len,
            f"{self.condition.num_tokens} condition tokens and {codes} codes need {needed} positions, "
            f"the transformer has {self.transformer.max_seq_len}",
        )
        _require(
            self.autoencoder.codebook_size <= self.transformer.vocab_size,
            f"codebook_size {self.autoencoder.codebook_size} is larger than the transformer's "
            f"vocab_size {self.transformer.vocab_size}",
        )
        if self.condition.autoencoder is not None:
            _require(
                self.condition.autoencoder.codebook_size <= self.transformer.vocab_size,
                f"the condition's codebook_size {self.condition.autoencoder.codebook_size} is larger than the "
                f"transformer's vocab_size {self.transformer.vocab_size}",
            )
        if self.permutation is not None:
            _require(
                sorted(self.permutation) == list(range(codes)),
                f"permutation is no permutation of the {codes} codes of the training grid",
            )
        if self.transformer.one_pass:
            _require(
                self.condition.num_tokens == codes,
                f"one-pass prediction needs as many condition tokens as codes, found "
                f"{self.condition.num_tokens} and {codes}",
            )

    @property
    def num_codes(self) -> int:
        """Codes of a training-size picture."""
        return self.autoencoder.latent_size**2


def fitting_layout_forms(num_tokens: int) -> list[LayoutForm]:
    """Return the forms of a layout that have room for an object, and ``num_tokens`` tokens."""
    return [
        form
        for form, (each, crop) in LAYOUT_TOKENS.items()
        if num_tokens >= each + crop and (num_tokens - crop) % each == 0
    ]


def to_dict(spec: Any) -> dict[str, Any]:
    """Return a spec as JSON-ready nested dicts and lists."""
    return dataclasses.asdict(spec)


def from_dict(cls: type[Any], data: object, where: str = "spec") -> Any:
    """Return a spec dataclass from nested dicts; unknown, missing or mistyped keys raise SpecError naming the key."""
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: found {type(data).__name__}, wanted an object")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise SpecError(f"{where}: unknown key {unknown[0]!r}; wanted some of {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SpecError(f"{where}: missing key {name!r}")
    return cls(**values)


def _value(hint: Any, value: object, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise SpecError(f"{where}: found {value!r}, wanted one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SpecError(f"{where}: found {type(value).__name__}, wanted a list")
        if args[-1] is Ellipsis:
            return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise SpecError(f"{where}: found {len(value)} items, wanted {len(args)}")
        return tuple(_value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SpecError(f"{where}: found {type(value).__name__}, wanted an object")
        return {_value(args[0], key, where): _value(args[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type[Any], hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SpecError(f"{where}: found {value!r}, wanted {hint.__name__}")
    return value
