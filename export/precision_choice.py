"""The fastest precision whose predictions stay near those of float32, measured on what the model itself draws.

Fewer bits are faster where weights are read for each code (docs/benchmarks), so candidates are tried from few bits to
many: int4; int4 with the most sensitive matrices in 8 bits; int8; and fp32, which is within the limits by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trt_vqgan.export.gpt_modules import load_gpt
from trt_vqgan.export.model_sequences import Sequences, draw_sequences
from trt_vqgan.export.quantized_gpt import QuantizedGPT, matrix_names, quantized_bits
from trt_vqgan.export.transformer_graph import Precision
from trt_vqgan.export.weight_quantization import INT4, INT8
from trt_vqgan.manifest import MeasuredPrecision, PrecisionMeasurement, SamplingDefaults
from trt_vqgan.spec import ModelSpec

KL_LIMIT_NATS = 0.005
"""Of the mean divergence a code from float32's distribution."""

NLL_LIMIT = 0.005
"""Of the rise of the negative log-likelihood, as a share of float32's."""

MEASURED_CODES = 2048
"""At least, in whole sequences, and at least four of them."""

SENSITIVITY_CODES = 512
"""Of these, by which matrices are put in order of what their 4 bits cost."""

WORTHWHILE_BITS = 7.5
"""A mixture of more bits a weight is no faster than int8 (8.25) by anything that can be measured."""

OnStage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class PrecisionChoice:
    """What was chosen: a precision, matrices that are wider than it says, and what was measured."""

    precision: Precision
    wider: frozenset[str]
    measured: PrecisionMeasurement

    @property
    def told(self) -> str:
        """A sentence for whoever exports."""
        found = "; ".join(
            f"{name} {candidate.kl_nats:.4f} nats and {100 * candidate.nll_rise:+.2f} %"
            for name, candidate in self.measured.candidates.items()
        )
        mixed = f" with {len(self.wider)} matrices in 8 bits" if self.wider else ""
        return (
            f"precision {self.precision}{mixed}: the fastest within {KL_LIMIT_NATS} nats of mean divergence and "
            f"{100 * NLL_LIMIT:g} % of negative log-likelihood ({found}, on {self.measured.codes} codes that the model "
            "drew)"
        )


def choose_precision(
    spec: ModelSpec,
    weights: Mapping[str, Any],
    *,
    sampling: SamplingDefaults,
    say: OnStage = lambda stage: None,
) -> PrecisionChoice:
    """Return the fastest precision of a model's transformer within the limits.

    Parameters
    ----------
    weights : the checkpoint's.
    sampling : how the sequences are drawn that it is measured on.
    say : called with the name of each stage.

    Raises
    ------
    ExportError : the model's conditions can't be made up.
    """
    assert spec.transformer is not None
    gpt = load_gpt(spec.transformer, weights)
    count = max(4, -(-MEASURED_CODES // spec.num_codes))

    def on_code(done: int) -> None:
        if done % 64 == 0:
            say(f"precision: drawing, {done} of {spec.num_codes} codes")

    say("precision: drawing")
    sequences = draw_sequences(gpt, spec, weights, count=count, sampling=sampling, on_code=on_code)
    return choose_for(sequences, _logits(gpt, sequences), QuantizedGPT(gpt), say=say)


def choose_for(
    sequences: Sequences, wanted: torch.Tensor, model: QuantizedGPT, *, say: OnStage = lambda stage: None
) -> PrecisionChoice:
    """Return the choice for ``model``, whose logits in float32 are ``wanted`` (N, n, V)."""
    names = matrix_names(model.gpt.spec.num_layers)
    sizes = {name: model.weights(name) for name in names}
    candidates: dict[str, MeasuredPrecision] = {}

    def choice(precision: Precision, wider: frozenset[str] = frozenset()) -> PrecisionChoice:
        measured = PrecisionMeasurement(
            codes=sequences.codes.numel(), kl_limit_nats=KL_LIMIT_NATS, nll_limit=NLL_LIMIT, candidates=candidates
        )
        return PrecisionChoice(precision, wider, measured)

    def measure(wider: frozenset[str]) -> MeasuredPrecision:
        for name in names:
            model.set_form(name, INT8 if name in wider else INT4)
        kl, nll_rise = divergence(wanted, _logits(model.gpt, sequences), sequences.codes)
        return MeasuredPrecision(
            kl_nats=kl, nll_rise=nll_rise, bits=quantized_bits(sizes, wider), wider=tuple(sorted(wider))
        )

    say("precision: measuring int4")
    candidates["int4"] = measure(frozenset())
    if _within(candidates["int4"]):
        return choice("int4")
    say("precision: measuring int8")
    eight = dataclasses.replace(measure(frozenset(names)), wider=())
    if _within(eight):
        order = _by_sensitivity(sequences, wanted, model, sizes, say)
        mixture = _narrowest(order, sizes, measure, say)
        if mixture is not None:
            candidates["int4 and int8"] = mixture
            candidates["int8"] = eight
            return choice("int4", frozenset(mixture.wider))
    candidates["int8"] = eight
    return choice("int8" if _within(eight) else "fp32")


def divergence(wanted: torch.Tensor, found: torch.Tensor, codes: torch.Tensor) -> tuple[float, float]:
    """Return mean KL a code (nats) of ``found`` from ``wanted`` (N, n, V), and how much likelihood falls.

    The latter is the rise of the negative log-likelihood of ``codes`` (N, n) as a share of that of ``wanted``.
    """
    p, q = torch.log_softmax(wanted.double(), dim=-1), torch.log_softmax(found.double(), dim=-1)
    kl = float((p.exp() * (p - q)).sum(dim=-1).mean())
    before, after = (-float(each.gather(-1, codes[..., None]).mean()) for each in (p, q))
    return kl, (after - before) / max(before, 1e-9)


def _within(measured: MeasuredPrecision) -> bool:
    # written so that what isn't a number is outside
    return measured.kl_nats <= KL_LIMIT_NATS and measured.nll_rise <= NLL_LIMIT


def _by_sensitivity(
    sequences: Sequences, wanted: torch.Tensor, model: QuantizedGPT, sizes: Mapping[str, int], say: OnStage
) -> list[str]:
    """Return the matrices, those first whose 4 bits diverge most for what they save, all others being in 8 bits."""
    some = max(1, SENSITIVITY_CODES // sequences.codes.shape[1])
    part = Sequences(sequences.tokens[:some], sequences.codes[:some], sequences.first)
    cost: dict[str, float] = {}
    for i, (name, size) in enumerate(sizes.items()):
        if i % 8 == 0:
            say(f"precision: sensitivity, {i} of {len(sizes)} matrices")
        model.set_form(name, INT4)
        kl, _ = divergence(wanted[:some], _logits(model.gpt, part), part.codes)
        model.set_form(name, INT8)
        cost[name] = kl / size
    return sorted(sizes, key=cost.__getitem__, reverse=True)


def _narrowest(
    order: list[str],
    sizes: Mapping[str, int],
    measure: Callable[[frozenset[str]], MeasuredPrecision],
    say: OnStage,
) -> MeasuredPrecision | None:
    """Return the mixture within the limits with the fewest matrices of ``order`` in 8 bits; None if none pays."""
    most = 0
    while most < len(order) and quantized_bits(sizes, frozenset(order[: most + 1])) <= WORTHWHILE_BITS:
        most += 1
    best, least = None, 1
    while least <= most:
        middle = (least + most) // 2
        say(f"precision: measuring int4 with {middle} matrices in 8 bits")
        measured = measure(frozenset(order[:middle]))
        if _within(measured):
            best, most = measured, middle - 1
        else:
            least = middle + 1
    return best


def _logits(gpt: Any, sequences: Sequences) -> torch.Tensor:
    """Return the logits float32 (N, n, V) that predict the codes; a sequence at a time, which bounds the memory."""
    with torch.inference_mode():
        return torch.cat([gpt(row[None])[:, sequences.first :] for row in sequences.tokens])
