"""The published configs' names, translated to `ModelSpec` here and nowhere else.

Sources: the constructors in ``taming/models/vqgan.py``, ``taming/models/cond_transformer.py``,
``taming/modules/diffusionmodules/model.py``, ``taming/modules/transformer/mingpt.py`` and, for the latent-diffusion
first stages, ``ldm/models/autoencoder.py``. Paths (``ckpt_path``, ``remap``) and losses in a config are never
touched: everything that is needed lies in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from trt_vqgan.errors import CheckpointError, SpecError
from trt_vqgan.export.config_params import Params
from trt_vqgan.export.stored_facts import StageFacts, StoredFacts
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, Modality, ModelSpec, QuantizerKind, TransformerSpec

Family = Literal["taming", "ldm"]

_AUTOENCODERS: dict[str, tuple[Family, QuantizerKind]] = {
    "taming.models.vqgan.VQModel": ("taming", "nearest"),
    "taming.models.vqgan.VQSegmentationModel": ("taming", "nearest"),
    "taming.models.vqgan.VQNoDiscModel": ("taming", "nearest"),
    "taming.models.vqgan.GumbelVQ": ("taming", "gumbel"),
    "taming.models.vqgan.EMAVQ": ("taming", "nearest"),
    "ldm.models.autoencoder.VQModel": ("ldm", "nearest"),
    "ldm.models.autoencoder.VQModelInterface": ("ldm", "nearest"),
}
_TRANSFORMER_MODEL = "taming.models.cond_transformer.Net2NetTransformer"
_GPT = "taming.modules.transformer.mingpt.GPT"
_LABELATOR = "taming.modules.util.Labelator"
_SOS_PROVIDER = "taming.modules.util.SOSProvider"
_COORD_STAGE = "taming.modules.misc.coord.CoordStage"
_DUMMY_STAGE = "taming.models.dummy_cond_stage.DummyCondStage"
_PERMUTERS = "taming.modules.transformer.permuter."
_PERMUTER_NAMES = (
    "Identity",
    "Subsample",
    "ZCurve",
    "SpiralOut",
    "SpiralIn",
    "AlternateParsing",
    "Random",
)

# Parameters that change training, logging or file names, never what a trained model computes.
_IGNORED_AUTOENCODER = (
    "lossconfig",
    "ckpt_path",
    "ignore_keys",
    "monitor",
    "colorize_nlabels",
    "n_labels",
    "remap",
    "sane_index_shape",
    "temperature_scheduler_config",
    "kl_weight",
    "batch_resize_range",
    "scheduler_config",
    "lr_g_factor",
    "use_ema",
    "learning_rate",
)
_IGNORED_DDCONFIG = ("dropout", "conv_shortcut")
_IGNORED_TRANSFORMER_MODEL = ("ckpt_path", "ignore_keys", "monitor", "scheduler_config")
_IGNORED_GPT = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
_MAX_DEPTH = 1000  # the table of expected keys grows with it


def has_transformer(config: Mapping[str, Any]) -> bool:
    """Return whether a config describes a VQGAN with a transformer (true) or a VQGAN alone (false).

    Raises
    ------
    CheckpointError : its target class is unknown.
    """
    target = Params(config, "the YAML").section("model").text("target")
    if target == _TRANSFORMER_MODEL:
        return True
    if target in _AUTOENCODERS:
        return False
    raise _unknown("model.target", target, (_TRANSFORMER_MODEL, *_AUTOENCODERS))


def translate(config: Mapping[str, Any], *, facts: StoredFacts) -> ModelSpec:
    """Return the spec that a published config and the facts stored with the weights describe.

    Raises
    ------
    CheckpointError : an unknown target or parameter, a missing or mistyped value, a contradiction.
    """
    try:
        model = Params(config, "the YAML").section("model")
        model.where = "model"
        if has_transformer(config):
            return _model(model.section("params"), facts)
        autoencoder = _autoencoder(model, facts.first_stage, key=None)
        return ModelSpec(autoencoder=autoencoder)
    except SpecError as error:
        raise CheckpointError(f"config: {error}") from error


def _unknown(where: str, found: object, known: tuple[str, ...]) -> CheckpointError:
    return CheckpointError(f"config: {where} is {found!r:.120}, wanted one of {', '.join(known)}")


def _autoencoder(config: Params, facts: StageFacts, *, key: str | None) -> AutoencoderSpec:
    """Return the spec of a VQGAN from ``{target, params}``; ``key`` is the batch key under which its input comes."""
    target = config.text("target")
    if target not in _AUTOENCODERS:
        raise _unknown(f"{config.where}.target", target, tuple(_AUTOENCODERS))
    family, quantizer = _AUTOENCODERS[target]
    params = config.section("params")
    codes = params.integer("n_embed")
    code_dim = params.integer("embed_dim")
    keys = {key, params.text("image_key", "image")}
    if target.endswith("VQSegmentationModel"):
        keys.add("segmentation")
    # The key check can't see this for a remapped codebook, of which only some rows are kept.
    if facts.codebook_rows not in (None, codes):
        raise CheckpointError(
            f"config: {params.where}.n_embed is {codes}, the stored codebook has {facts.codebook_rows} rows; is this "
            "YAML the checkpoint's own?"
        )
    net = params.section("ddconfig")
    params.finish(ignored=_IGNORED_AUTOENCODER)
    z_channels = net.integer("z_channels")
    # The published default is true, with which its own quant_conv doesn't fit.
    if net.flag("double_z", True):
        raise CheckpointError(f"config: {net.where}.double_z is true (its default), wanted false for a VQGAN")
    if quantizer == "gumbel" and code_dim != z_channels:
        raise CheckpointError(
            f"config: {params.where}.embed_dim is {code_dim} and z_channels is {z_channels}, wanted equal ones for a "
            "Gumbel VQGAN"
        )
    in_channels = net.integer("in_channels")
    spec = AutoencoderSpec(
        quantizer=quantizer,
        in_channels=in_channels,
        out_channels=net.integer("out_ch"),
        base_channels=net.integer("ch"),
        channel_multipliers=net.integers("ch_mult", (1, 2, 4, 8)),
        num_res_blocks=net.integer("num_res_blocks", most=_MAX_DEPTH),
        attention_resolutions=net.integers("attn_resolutions"),
        resolution=net.integer("resolution"),
        z_channels=z_channels,
        code_dim=code_dim,
        codebook_size=codes if facts.used is None else len(facts.used),
        resample_with_conv=net.flag("resamp_with_conv", True),
        conv_shortcut=facts.conv_shortcut,
        use_attention=_uses_attention(net, family),
        modality=_modality(keys, in_channels),
    )
    net.finish(ignored=_IGNORED_DDCONFIG)
    return spec


def _uses_attention(net: Params, family: Family) -> bool:
    """Return whether attention blocks exist; settings that would change the computation otherwise are refused.

    The taming classes swallow these names unread, so there they are only marked as known.
    """
    if family == "taming":
        for name in ("attn_type", "use_linear_attn", "tanh_out"):
            net.raw(name, None)
        if net.flag("give_pre_end", False):
            raise CheckpointError(f"config: {net.where}.give_pre_end is true, wanted false")
        return True
    for name in ("use_linear_attn", "tanh_out", "give_pre_end"):
        if net.flag(name, False):
            raise CheckpointError(f"config: {net.where}.{name} is true, which this package doesn't run; wanted false")
    kind = net.text("attn_type", "vanilla")
    if kind not in ("vanilla", "none"):
        raise CheckpointError(f"config: {net.where}.attn_type is {kind!r}, wanted 'vanilla' or 'none'")
    return kind == "vanilla"


def _modality(keys: set[str | None], channels: int) -> Modality:
    if "segmentation" in keys or channels > 4:
        return "segmentation"
    return "depth" if channels == 1 else "image"


def _model(params: Params, facts: StoredFacts) -> ModelSpec:
    first_stage = _autoencoder(
        params.section("first_stage_config"),
        facts.first_stage,
        key=params.text("first_stage_key", "image"),
    )
    one_pass = params.number("pkeep", 1.0) <= 0
    transformer = _transformer(params.section("transformer_config"), one_pass=one_pass)
    condition = _condition(params, first_stage, transformer, facts)
    permutation = _permutation(params, facts)
    params.finish(ignored=_IGNORED_TRANSFORMER_MODEL)
    return ModelSpec(autoencoder=first_stage, transformer=transformer, condition=condition, permutation=permutation)


def _transformer(config: Params, *, one_pass: bool) -> TransformerSpec:
    target = config.text("target")
    if target != _GPT:
        raise _unknown(f"{config.where}.target", target, (_GPT,))
    params = config.section("params")
    spec = TransformerSpec(
        vocab_size=params.integer("vocab_size"),
        max_seq_len=params.integer("block_size"),
        num_layers=params.integer("n_layer", 12, most=_MAX_DEPTH),
        num_heads=params.integer("n_head", 8),
        hidden_size=params.integer("n_embd", 256),
        num_unmasked=params.integer("n_unmasked", 0),
        one_pass=one_pass,
    )
    params.finish(ignored=_IGNORED_GPT)
    return spec


def _condition(
    params: Params, first_stage: AutoencoderSpec, transformer: TransformerSpec, facts: StoredFacts
) -> ConditionSpec:
    key = params.text("cond_stage_key", "depth")
    sos_token = params.integer("sos_token", 0)
    unconditional = params.flag("unconditional", False)
    size = params.integer("downsample_cond_size", -1)
    if size == 0 or size < -1:
        raise params.wrong("downsample_cond_size", "-1 or a side in pixels")
    resized = max(size, 0)
    side = resized or first_stage.resolution
    stage = params.raw("cond_stage_config", "__is_unconditional__" if unconditional else None)
    if stage == "__is_first_stage__":
        return ConditionSpec(
            kind="autoencoder",
            num_tokens=(side // first_stage.factor) ** 2,
            shares_first_stage=True,
            downsample_size=resized,
        )
    if unconditional or stage == "__is_unconditional__":
        return _unconditional(params, sos_token, transformer)
    config = Params(stage, f"{params.where}.cond_stage_config")
    target = config.text("target")
    if target in _AUTOENCODERS:
        own = _autoencoder(config, facts.condition, key=key)
        return ConditionSpec(
            kind="autoencoder", num_tokens=(side // own.factor) ** 2, autoencoder=own, downsample_size=resized
        )
    own_params = config.section("params", {})
    if target == _COORD_STAGE:
        levels, factor = own_params.integer("n_embed"), own_params.integer("down_factor")
        own_params.finish()
        return ConditionSpec(
            kind="coordinates",
            num_tokens=(side // max(factor, 1)) ** 2,
            coordinate_levels=levels,
            coordinate_factor=factor,
            downsample_size=resized,
        )
    if target in (_LABELATOR, _SOS_PROVIDER) and not own_params.flag("quantize_interface", True):
        raise own_params.wrong("quantize_interface", "true")
    if target == _SOS_PROVIDER:
        own_token = own_params.integer("sos_token")
        own_params.finish()
        return _unconditional(params, own_token, transformer)
    if resized:
        raise CheckpointError(
            f"config: {params.where}.downsample_cond_size is {size}, which {target} can't follow; wanted -1"
        )
    if target == _LABELATOR:
        classes = own_params.integer("n_classes")
        own_params.finish()
        return ConditionSpec(kind="class", num_tokens=1, num_classes=classes)
    if target == _DUMMY_STAGE:
        own_params.finish(ignored=("conditional_key",))
        codes = first_stage.latent_size**2
        # The block holds the boxes' tokens and the picture's codes: 348 = 92 + 256 in the released scene models.
        return ConditionSpec(kind="boxes", num_tokens=transformer.max_seq_len - codes)
    known = (_LABELATOR, _SOS_PROVIDER, _COORD_STAGE, _DUMMY_STAGE, *_AUTOENCODERS)
    raise _unknown(f"{config.where}.target", target, known)


def _unconditional(params: Params, sos_token: int, transformer: TransformerSpec) -> ConditionSpec:
    if not 0 <= sos_token < transformer.vocab_size:
        raise CheckpointError(
            f"config: {params.where}: the start token is {sos_token}, wanted one of the {transformer.vocab_size} "
            "entries of the vocabulary"
        )
    return ConditionSpec(kind="unconditional", num_tokens=1, sos_token=sos_token)


def _permutation(params: Params, facts: StoredFacts) -> tuple[int, ...] | None:
    raw = params.raw("permuter_config", None)
    name = "Identity"
    if raw is not None:
        config = Params(raw, f"{params.where}.permuter_config")
        target = config.text("target")
        name = target.removeprefix(_PERMUTERS)
        if target == name or name not in _PERMUTER_NAMES:
            raise _unknown(f"{config.where}.target", target, tuple(_PERMUTERS + known for known in _PERMUTER_NAMES))
        config.section("params", {}).finish(ignored=("H", "W"))
    if name == "Identity":
        if facts.permutation is not None:
            raise CheckpointError(
                "the checkpoint stores permuter.forward_shuffle_idx, but the config has no permuter; wanted its "
                "permuter_config"
            )
        return None
    if facts.permutation is None:
        raise CheckpointError(
            f"key 'permuter.forward_shuffle_idx' is missing from the checkpoint; the config's permuter {name} needs it"
        )
    return facts.permutation
