"""Which latents a Gumbel checkpoint's projection reads: a fact that the file doesn't hold.

The published ``GumbelVQ.encode`` projects the output of ``quant_conv``; reference arrays that were computed from
untrained weights project the encoder's output instead. A trained model reconstructs pictures in one of the two ways
only, so the two are tried and the better one is taken. Weights that reconstruct nothing either way can't tell; they
are read as the reference arrays read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from trt_vqgan.export.sample_inputs import sample_map
from trt_vqgan.export.vqgan_modules import load_autoencoder
from trt_vqgan.spec import AutoencoderSpec, GumbelInput

TRAINED_RATIO = 2.0
"""How much smaller one squared error must be to count. Untrained: 1.00 to 1.05; a trained one differs by far more."""

SIDE_CODES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class GumbelEvidence:
    """Mean squared errors of reconstructing one picture both ways; None where the sizes forbid one."""

    chosen: GumbelInput
    quant_conv_error: float | None
    encoder_error: float | None

    @property
    def told(self) -> str:
        """One line for people: what was chosen, and why."""
        if self.quant_conv_error is None or self.encoder_error is None:
            return f"Gumbel projection reads the output of {self.chosen}: its sizes allow nothing else"
        return (
            f"Gumbel projection reads the output of {self.chosen} (squared error of a reconstruction: after quant_conv "
            f"{self.quant_conv_error:.4f}, after encoder {self.encoder_error:.4f})"
        )


def choose_gumbel_input(spec: AutoencoderSpec, weights: Mapping[str, Any], *, prefix: str) -> GumbelEvidence:
    """Return which latents the projection reads, measured on one fixed picture.

    Parameters
    ----------
    spec : a VQGAN with a Gumbel quantizer.
    weights : its arrays under ``prefix`` + published key.
    """
    if spec.z_channels != spec.code_dim:
        return GumbelEvidence(chosen="encoder", quant_conv_error=None, encoder_error=None)
    picture = torch.from_numpy(sample_map(spec, spec.factor * min(spec.latent_size, SIDE_CODES)))

    def error(way: GumbelInput) -> float:
        model = load_autoencoder(dataclasses.replace(spec, gumbel_input=way), weights, prefix=prefix)
        pixels = model.decode_codes(model.encode_codes(picture))
        return float((pixels.clamp(-1, 1) - picture).square().mean())

    after_quant_conv, after_encoder = error("quant_conv"), error("encoder")
    trained = after_quant_conv * TRAINED_RATIO < after_encoder
    return GumbelEvidence(
        chosen="quant_conv" if trained else "encoder",
        quant_conv_error=after_quant_conv,
        encoder_error=after_encoder,
    )
