"""The fastest precision whose predictions stay near those of float32, measured on what the model itself draws.

Fastest is a decode step of one picture, which reads all weights for one code, so that fewer bits are faster; prefills
are not (docs/precision.md). So candidates are tried from few bits to many: int4; int4 with the most sensitive matrices
in 8 bits; int8; and fp32, which is within the limits by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trt_vqgan.export.gpt_modules import GPT, load_gpt
from trt_vqgan.export.matrix_sensitivity import divergence_of_four_bits
from trt_vqgan.export.model_sequences import Sequences, draw_sequences
from trt_vqgan.export.one_thread_workers import OneThreadWorkers
from trt_vqgan.export.quantized_gpt import QuantizedGPT, matrix_names, quantized_bits
from trt_vqgan.export.transformer_graph import Precision
from trt_vqgan.export.weight_quantization import INT4, INT8
from trt_vqgan.manifest import MeasuredPrecision, PrecisionMeasurement, SamplingDefaults
from trt_vqgan.spec import ModelSpec

KL_LIMIT_NATS = 0.005
"""Of the mean divergence a code from float32's distribution."""

NLL_LIMIT = 0.005
"""Of the rise of the negative log-likelihood, as a share of float32's."""

MARGIN = 0.8
"""Share of the limits that a choice may use, so that they hold on other codes too: the divergence of single pictures
had a standard deviation of 22 to 40 % of the mean, so that the mean of eight has 8 to 14 % (docs/precision.md)."""

MEASURED_CODES = 2048
"""At least, in whole sequences, of a model that `MEASURING_WORK` allows them."""

MEASURING_WORK = 2.2e11
"""Weights times tokens of a measurement, which bounds its time: 12x768 still gets all codes, 24x1024 the fewest."""

FEWEST_SEQUENCES = 4

MOST_MIXTURES = 4
"""That are measured; each is predicted from those before."""

WORTHWHILE_BITS = 7.5
"""A mixture of more bits a weight is hardly faster than int8 (8.25): times of a step of one picture lie on a straight
line over the bits, on which int4 (4.5) takes 0.75 of int8's and this 0.95 (docs/precision.md)."""

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
            f"precision {self.precision}{mixed}: the fastest that uses at most {100 * MARGIN:g} % of the limits, which "
            f"are {KL_LIMIT_NATS} nats of mean divergence and {100 * NLL_LIMIT:g} % of negative log-likelihood "
            f"({found}, on {self.measured.codes} codes that the model drew)"
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

    def on_code(done: int) -> None:
        if done % 64 == 0:
            say(f"precision: drawing, {done} of {spec.num_codes} codes")

    say("precision: drawing")
    with OneThreadWorkers() as workers:
        sequences = draw_sequences(
            gpt, spec, weights, count=sequences_of(spec), sampling=sampling, workers=workers, on_code=on_code
        )
        say("precision: measuring fp32")
        wanted = logits_of(gpt, sequences, workers)
        return choose_for(sequences, wanted, QuantizedGPT(gpt, workers), workers, say=say)


def sequences_of(spec: ModelSpec) -> int:
    """Return how many sequences a model is measured on."""
    transformer, condition = spec.transformer, spec.condition
    assert transformer is not None
    assert condition is not None
    weights = 12 * transformer.num_layers * transformer.hidden_size**2
    allowed = int(MEASURING_WORK / (weights * (condition.num_tokens + spec.num_codes)))
    return max(FEWEST_SEQUENCES, min(allowed, -(-MEASURED_CODES // spec.num_codes)))


def choose_for(
    sequences: Sequences,
    wanted: torch.Tensor,
    model: QuantizedGPT,
    workers: OneThreadWorkers,
    *,
    say: OnStage = lambda stage: None,
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
        kl, nll_rise = _divergence_of(model.gpt, sequences, wanted, workers)
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
        say("precision: sensitivity")
        half = -(-len(sequences.codes) // 2)  # a sequence takes three times as long as in a measurement
        some = Sequences(sequences.tokens[:half], sequences.codes[:half], sequences.first)
        costs = divergence_of_four_bits(some, model, workers)
        mixture = _narrowest(costs, sizes, candidates["int4"], eight, measure, say)
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
    return _of_sums([_sums(*each) for each in zip(wanted, found, codes, strict=True)])


def _sums(wanted: torch.Tensor, found: torch.Tensor, codes: torch.Tensor) -> tuple[float, float, float]:
    """Return a sequence's mean KL a code, and mean negative log-likelihoods of both; logits are (n, V), codes (n,)."""
    p, q = torch.log_softmax(wanted.double(), dim=-1), torch.log_softmax(found.double(), dim=-1)
    kl = float((p.exp() * (p - q)).sum(dim=-1).mean())
    before, after = (-float(each.gather(-1, codes[:, None]).mean()) for each in (p, q))
    return kl, before, after


def _of_sums(sequences: list[tuple[float, float, float]]) -> tuple[float, float]:
    kl, before, after = (sum(each) / len(sequences) for each in zip(*sequences, strict=True))
    return kl, (after - before) / max(before, 1e-9)


def _divergence_of(
    gpt: GPT, sequences: Sequences, wanted: torch.Tensor, workers: OneThreadWorkers
) -> tuple[float, float]:
    """Return `divergence` of ``gpt`` as it now is; a sequence at a time, which bounds the memory."""

    def one(number: int) -> tuple[float, float, float]:
        with torch.inference_mode():
            found = gpt(sequences.tokens[number : number + 1])[0, sequences.first :]
            return _sums(wanted[number], found, sequences.codes[number])

    return _of_sums(workers.map(one, range(len(wanted))))


def logits_of(gpt: GPT, sequences: Sequences, workers: OneThreadWorkers) -> torch.Tensor:
    """Return the logits float32 (N, n, V) that predict the codes."""

    def one(row: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = gpt(row[None])[:, sequences.first :]
            return logits

    return torch.cat(workers.map(one, sequences.tokens.unbind()))


def _within(measured: MeasuredPrecision) -> bool:
    # written so that what isn't a number is outside
    return measured.kl_nats <= MARGIN * KL_LIMIT_NATS and measured.nll_rise <= MARGIN * NLL_LIMIT


def _narrowest(
    costs: Mapping[str, float],
    sizes: Mapping[str, int],
    four: MeasuredPrecision,
    eight: MeasuredPrecision,
    measure: Callable[[frozenset[str]], MeasuredPrecision],
    say: OnStage,
) -> MeasuredPrecision | None:
    """Return a mixture within the limits with few matrices in 8 bits; None if none was found that pays.

    Those come first whose 4 bits cost most for what they save. How many it takes is predicted from ``costs``, which are
    scaled to what was measured: of ``four`` bits at first, then of the last mixture.
    """
    order = sorted(costs, key=lambda name: costs[name] / sizes[name], reverse=True)
    total = sum(costs.values())
    left = [1.0]  # share of the costs that stays with so many matrices in 8 bits
    for name in order:
        left.append(left[-1] - costs[name] / total)
    most = 0
    while most < len(order) and quantized_bits(sizes, frozenset(order[: most + 1])) <= WORTHWHILE_BITS:
        most += 1
    best, least, scale = None, 1, four.kl_nats - eight.kl_nats

    def enough(count: int) -> bool:
        return eight.kl_nats + scale * left[count] <= MARGIN * KL_LIMIT_NATS

    for _ in range(MOST_MIXTURES):
        if least > most:
            break
        count = next(filter(enough, range(least, most)), most)
        say(f"precision: measuring int4 with {count} matrices in 8 bits")
        measured = measure(frozenset(order[:count]))
        scale = (measured.kl_nats - eight.kl_nats) / max(left[count], 1e-9)
        if _within(measured):
            best, most = measured, count - 1
            if most < least or not enough(most):
                break
        else:
            least = count + 1
    return best
