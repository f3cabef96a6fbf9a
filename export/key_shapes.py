"""Every weight of a model and its shape, from its spec alone.

The names are those of the published state dicts, after the prefixes ``first_stage.``, ``condition.`` and
``transformer.``. Structure: ``taming/modules/diffusionmodules/model.py`` (Encoder, Decoder),
``taming/modules/vqvae/quantize.py`` and ``taming/modules/transformer/mingpt.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_vqgan.spec import AutoencoderSpec, ModelSpec, TransformerSpec

Shape = tuple[int, ...]
Entries = Iterator[tuple[str, Shape]]


def expected_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return the shape of every weight of a model, by its canonical key.

    ``first_stage.`` is the picture's VQGAN, ``condition.`` the condition's own VQGAN where it has one, ``transformer.``
    the GPT. Codebooks have ``codebook_size`` rows.
    """
    shapes = {f"first_stage.{key}": shape for key, shape in autoencoder_shapes(spec.autoencoder).items()}
    if spec.condition is not None and spec.condition.autoencoder is not None:
        condition = autoencoder_shapes(spec.condition.autoencoder)
        shapes.update({f"condition.{key}": shape for key, shape in condition.items()})
    if spec.transformer is not None:
        transformer = transformer_shapes(spec.transformer)
        shapes.update({f"transformer.{key}": shape for key, shape in transformer.items()})
    return shapes


def autoencoder_shapes(spec: AutoencoderSpec) -> dict[str, Shape]:
    """Return the shape of every weight of a VQGAN, by its published key."""
    return dict(_autoencoder(spec))


def transformer_shapes(spec: TransformerSpec) -> dict[str, Shape]:
    """Return the shape of every weight of a GPT, by its published key (``attn.mask`` is derived, so it isn't one)."""
    return dict(_transformer(spec))


def _autoencoder(spec: AutoencoderSpec) -> Entries:
    yield from _encoder(spec)
    yield from _decoder(spec)
    yield from _conv("quant_conv", spec.z_channels, spec.code_dim, 1)
    yield from _conv("post_quant_conv", spec.code_dim, spec.z_channels, 1)
    if spec.quantizer == "gumbel":
        yield from _conv("quantize.proj", spec.code_dim, spec.codebook_size, 1)
        yield "quantize.embed.weight", (spec.codebook_size, spec.code_dim)
    else:
        yield "quantize.embedding.weight", (spec.codebook_size, spec.code_dim)


def _encoder(spec: AutoencoderSpec) -> Entries:
    width, side = spec.base_channels, spec.resolution
    last = len(spec.channel_multipliers) - 1
    yield from _conv("encoder.conv_in", spec.in_channels, width, 3)
    for level, multiplier in enumerate(spec.channel_multipliers):
        inputs, width = width, spec.base_channels * multiplier
        yield from _level(spec, f"encoder.down.{level}", inputs, width, spec.num_res_blocks, side)
        if level != last:
            if spec.resample_with_conv:
                yield from _conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
            side //= 2
    yield from _middle(spec, "encoder.mid", width)
    yield from _norm("encoder.norm_out", width)
    yield from _conv("encoder.conv_out", width, spec.z_channels, 3)


def _decoder(spec: AutoencoderSpec) -> Entries:
    width, side = spec.base_channels * spec.channel_multipliers[-1], spec.latent_size
    yield from _conv("decoder.conv_in", spec.z_channels, width, 3)
    yield from _middle(spec, "decoder.mid", width)
    for level in reversed(range(len(spec.channel_multipliers))):
        inputs, width = width, spec.base_channels * spec.channel_multipliers[level]
        yield from _level(spec, f"decoder.up.{level}", inputs, width, spec.num_res_blocks + 1, side)
        if level != 0:
            if spec.resample_with_conv:
                yield from _conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
            side *= 2
    yield from _norm("decoder.norm_out", width)
    yield from _conv("decoder.conv_out", width, spec.out_channels, 3)


def _level(spec: AutoencoderSpec, name: str, inputs: int, width: int, blocks: int, side: int) -> Entries:
    for block in range(blocks):
        yield from _residual(spec, f"{name}.block.{block}", inputs if block == 0 else width, width)
        if spec.use_attention and side in spec.attention_resolutions:
            yield from _attention(f"{name}.attn.{block}", width)


def _middle(spec: AutoencoderSpec, name: str, width: int) -> Entries:
    yield from _residual(spec, f"{name}.block_1", width, width)
    if spec.use_attention:
        yield from _attention(f"{name}.attn_1", width)
    yield from _residual(spec, f"{name}.block_2", width, width)


def _residual(spec: AutoencoderSpec, name: str, inputs: int, outputs: int) -> Entries:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _conv(f"{name}.conv1", inputs, outputs, 3)
    yield from _norm(f"{name}.norm2", outputs)
    yield from _conv(f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        if spec.conv_shortcut:
            yield from _conv(f"{name}.conv_shortcut", inputs, outputs, 3)
        else:
            yield from _conv(f"{name}.nin_shortcut", inputs, outputs, 1)


def _attention(name: str, width: int) -> Entries:
    yield from _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.{part}", width, width, 1)


def _transformer(spec: TransformerSpec) -> Entries:
    width = spec.hidden_size
    yield "tok_emb.weight", (spec.vocab_size, width)
    yield "pos_emb", (1, spec.max_seq_len, width)
    for layer in range(spec.num_layers):
        block = f"blocks.{layer}"
        yield from _norm(f"{block}.ln1", width)
        yield from _norm(f"{block}.ln2", width)
        for part in ("key", "query", "value", "proj"):
            yield from _linear(f"{block}.attn.{part}", width, width)
        yield from _linear(f"{block}.mlp.0", width, 4 * width)
        yield from _linear(f"{block}.mlp.2", 4 * width, width)
    yield from _norm("ln_f", width)
    yield "head.weight", (spec.vocab_size, width)


def _conv(name: str, inputs: int, outputs: int, kernel: int) -> Entries:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def _linear(name: str, inputs: int, outputs: int) -> Entries:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Entries:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
