"""Models that were published, as their configs describe them."""

from __future__ import annotations

from trt_vqgan.spec import AutoencoderSpec

F16 = AutoencoderSpec(
    quantizer="nearest",
    in_channels=3,
    out_channels=3,
    base_channels=128,
    channel_multipliers=(1, 1, 2, 2, 4),
    num_res_blocks=2,
    attention_resolutions=(16,),
    resolution=256,
    z_channels=256,
    code_dim=256,
    codebook_size=1024,
)
