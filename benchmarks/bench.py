"""Runs what ``trt-vqgan bench`` was asked for and returns the report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_vqgan.benchmarks.autoencoder_rows import decode_rows, encode_rows
from trt_vqgan.benchmarks.context import Context, Say
from trt_vqgan.benchmarks.generate_rows import generate_rows
from trt_vqgan.benchmarks.prefill_rows import prefill_rows
from trt_vqgan.benchmarks.read_bandwidth import ARRAY_BYTES, ReadBandwidth
from trt_vqgan.benchmarks.recording import record
from trt_vqgan.benchmarks.report import Report
from trt_vqgan.benchmarks.rows import Row
from trt_vqgan.benchmarks.sampler_rows import sampler_rows
from trt_vqgan.benchmarks.shapes import model_of_shape
from trt_vqgan.benchmarks.step_rows import step_rows
from trt_vqgan.benchmarks.subjects import BundleSubject, RandomSubject, Subject
from trt_vqgan.benchmarks.window_rows import window_rows
from trt_vqgan.errors import MissingDependencyError, ParityError, SpecError
from trt_vqgan.extras import import_module
from trt_vqgan.manifest import read_manifest
from trt_vqgan.runtime.demos import demo_bundle
from trt_vqgan.runtime.sessions import check_onnxruntime
from trt_vqgan.runtime.threads import resolve_threads
from trt_vqgan.spec import ModelSpec

if TYPE_CHECKING:
    from trt_vqgan.benchmarks.torch_baseline import TorchReference

PARTS: dict[str, Callable[[Subject, Context], list[Row]]] = {
    "encode": encode_rows,
    "decode": decode_rows,
    "prefill": prefill_rows,
    "step": step_rows,
    "sampler": sampler_rows,
    "generate": generate_rows,
    "window": window_rows,
}
OF_THE_AUTOENCODER = ("encode", "decode")
STEPPING = ("step", "sampler")
COMPARED = ("encode", "decode", "prefill", "step", "window")
ON_REQUEST = ("window",)  # takes minutes, and only models of random weights have it
PRECISIONS = ("fp32", "int8", "int4")


def run(
    bundle: Path | None = None,
    *,
    shapes: Sequence[tuple[int, int]] = (),
    what: Sequence[str] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    repeats: int = 3,
    baseline: bool = True,
    against: Path | None = None,
    say: Say = lambda line: None,
) -> Report:
    """Measure a bundle, or models of random weights, and return the report.

    Parameters
    ----------
    bundle : a bundle; the demo that ships with the package where neither it nor a shape is given.
    shapes : (layers, width) of models of random weights.
    what : parts to measure, some of `PARTS`; by default all that the model has.
    precisions : "fp32", "int8", "int4", of the models of random weights.
    batches : rows at once.
    threads : by default the processors that this process may use.
    repeats : interleaved rounds.
    baseline : measure torch beside.
    against : the checkpoint that ``bundle`` was made from, so that torch gets its weights and parity is told.
    say : called with a line about each stage.

    Raises
    ------
    SpecError : a part that the model doesn't have, or no batch, repeat or part.
    BundleError, CheckpointError : the bundle or the checkpoint can't be read.
    MissingDependencyError : torch, onnx or another package of the extra ``export`` is needed.
    """
    check_onnxruntime()
    count = resolve_threads(threads)
    if not batches or min(batches) < 1 or repeats < 1:
        raise SpecError(f"bench: found batches {tuple(batches)} and {repeats} repeats, wanted at least 1 each")
    subjects: list[Subject] = [
        RandomSubject(model_of_shape(layers, width=width), name=f"{layers}x{width}", precisions=tuple(precisions))
        for layers, width in shapes
    ]
    if not shapes:
        folder = bundle if bundle is not None else demo_bundle()
        subjects = [BundleSubject(folder, weights=_checkpoint_weights(folder, against))]
    return measure(subjects, what=what, batches=batches, threads=count, repeats=repeats, baseline=baseline, say=say)


def measure(
    subjects: Sequence[Subject],
    *,
    what: Sequence[str] | None,
    batches: Sequence[int],
    threads: int,
    repeats: int,
    baseline: bool,
    say: Say,
    array_bytes: int = ARRAY_BYTES,
) -> Report:
    """Measure parts of each subject, close them, and return the report; see `run`.

    Subjects that share a VQGAN have it measured once.
    """

    def rows(bandwidth: ReadBandwidth) -> Iterator[Row]:
        wanted = {subject.name: _parts_of(subject.spec, what) for subject in subjects}
        context = Context(batches=tuple(batches), threads=threads, repeats=repeats, bandwidth=bandwidth, say=say)
        measured_autoencoders: set[str] = set()
        for subject in subjects:
            parts = wanted[subject.name]
            if subject.autoencoder_name in measured_autoencoders:
                parts = [part for part in parts if part not in OF_THE_AUTOENCODER]
            measured_autoencoders.add(subject.autoencoder_name)
            yield from _measure_one(subject, parts, context, baseline=baseline)

    try:
        return record(
            rows,
            command=" ".join(["trt-vqgan", *sys.argv[1:]]),
            threads=threads,
            settings={"batches": list(batches), "repeats": repeats, "baseline": baseline},
            array_bytes=array_bytes,
        )
    finally:
        for subject in subjects:
            subject.close()


def check(report: Report) -> None:
    """Raise ParityError where a row's results are further from the reference than they may be."""
    if report.broken:
        row = report.broken[0]
        assert row.parity is not None
        wanted = "at least" if row.parity.at_least else "at most"
        raise ParityError(
            f"{row.what} of {row.model}, {row.precision}, batch {row.batch}: {row.parity.measure}: found "
            f"{row.parity.value:.3g}, wanted {wanted} {row.parity.limit:.3g} "
            f"({len(report.broken)} of {len(report.rows)} rows are off); its times mean nothing until that is mended"
        )


def _measure_one(subject: Subject, parts: Sequence[str], context: Context, *, baseline: bool) -> list[Row]:
    if baseline and any(part in COMPARED for part in parts):
        context.say(f"{subject.name}: making torch's modules")
        context = dataclasses.replace(context, reference=_reference(subject, threads=context.threads))
    rows: list[Row] = []
    for part in parts:
        rows += PARTS[part](subject, context)
    return rows


def _reference(subject: Subject, *, threads: int) -> TorchReference:
    try:
        module = import_module("trt_vqgan.benchmarks.torch_baseline")
        weights = subject.weights
        if weights is None:
            # times don't depend on what weights say
            weights = import_module("trt_vqgan.benchmarks.random_models").RandomWeights(subject.spec)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error}; or leave the comparison with torch out: --no-baseline") from error
    made: TorchReference = module.TorchReference(
        subject.spec, weights, own_weights=subject.weights is not None, threads=threads
    )
    return made


def _parts_of(spec: ModelSpec, what: Sequence[str] | None) -> list[str]:
    """Return the parts to measure, in the order of `PARTS`."""
    possible = [
        part
        for part in PARTS
        if part in OF_THE_AUTOENCODER
        or (
            spec.transformer is not None
            and not (part in STEPPING and (spec.transformer.one_pass or spec.num_codes < 2))
        )
    ]
    if what is None:
        return [part for part in possible if part not in ON_REQUEST]
    for part in what:
        if part not in possible:
            raise SpecError(f"bench: {part!r} can't be measured of this model, only {', '.join(possible)}")
    if not what:
        raise SpecError(f"bench: found no part to measure, wanted some of {', '.join(possible)}")
    return [part for part in possible if part in what]


def _checkpoint_weights(folder: Path, against: Path | None) -> Mapping[str, Any] | None:
    """Return the weights of the checkpoint at ``against``, which must be of the bundle's model."""
    if against is None:
        return None
    checkpoint = import_module("trt_vqgan.export.checkpoint").open_checkpoint(against)
    if checkpoint.spec != read_manifest(folder).model:
        raise ParityError(f"{folder} is a bundle of another model than {against}; name the run it was exported from")
    weights: Mapping[str, Any] = checkpoint.weights
    return weights
