"""Random decode states, and their last operation run by the kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches.sample_codes import DecodeStateAddresses, sample_codes
from trt_vqgan.kernels.reference.decode_state import FREE, KEEP_ALL, SAMPLING_ROW, DecodeState
from trt_vqgan.kernels.reference.sample_codes import exponent_rate

F32 = NDArray[np.float32]

POSITIONS = 40
HIDDEN = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """All that one call of sample_codes reads and writes."""

    logits: F32
    state: DecodeState
    x: F32
    token_embedding: NDArray[np.floating[Any]]
    position_embedding: NDArray[np.floating[Any]]

    def placed(self, place: Callable[[NDArray[Any]], NDArray[Any]]) -> Step:
        """Return the same in memory where ``place`` puts it."""
        arrays = {field.name: getattr(self.state, field.name) for field in dataclasses.fields(self.state)}
        return Step(
            logits=place(self.logits),
            state=DecodeState(**{name: place(array) for name, array in arrays.items()}),
            x=place(self.x),
            token_embedding=place(self.token_embedding),
            position_embedding=place(self.position_embedding),
        )

    def written(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that a step changes."""
        return {
            "codes": self.state.codes,
            "columns": self.state.columns,
            "lengths": self.state.lengths,
            "x": self.x,
        }


def random_logits(rng: np.random.Generator, rows: int, vocabulary: int, kind: int) -> F32:
    """Rows of seven kinds: plain, rounded to float16, on a coarse grid, all equal, with -inf, with zeros of both signs,
    and far apart."""
    scaled = rng.standard_normal((rows, vocabulary)).astype(np.float32) * rng.choice([0.1, 1, 4, 30])
    logits: F32 = scaled.astype(np.float32)
    if kind == 1:
        logits = logits.astype(np.float16).astype(np.float32)
    elif kind == 2:
        logits = np.round(logits * 2) / np.float32(2)
    elif kind == 3:
        logits[:] = logits[:, :1]
    elif kind == 4:
        logits[rng.random(logits.shape) < 0.7] = -np.inf
        logits[np.arange(rows), rng.integers(0, vocabulary, rows)] = 1
    elif kind == 5:
        logits = np.where(logits > 0, np.float32(0.0), np.float32(-0.0)).astype(np.float32)
    elif kind == 6:
        logits *= np.float32(1e30)
    return logits


def random_sampling(rng: np.random.Generator, batch: int, codebook_size: int) -> NDArray[np.void]:
    """Settings of each row, the ends of each range among them."""
    sampling = np.zeros(batch, SAMPLING_ROW)
    for row in sampling:
        row["seed"] = rng.integers(0, 2**64, dtype=np.uint64)
        row["rate"] = exponent_rate(float(rng.choice([0.5, 1.0, 1.3])))
        row["top_k"] = rng.choice(np.array([1, 2, rng.integers(1, codebook_size + 1), codebook_size, KEEP_ALL]))
        row["top_p"] = rng.choice(np.array([0, 1e-6, 0.3, 0.5, 0.92, 0.999, 1], np.float32))
        row["greedy"] = rng.random() < 0.1
        row["guidance_scale"] = rng.choice([0, 1, 2.5, 7])
        row["codebook_size"] = codebook_size
    return sampling


def random_step(
    rng: np.random.Generator,
    *,
    vocabulary: int,
    batch: int = 3,
    codebook_size: int | None = None,
    kind: int = 0,
    guided: bool = False,
    tables: type[np.floating[Any]] = np.float16,
    num_codes: int = 9,
) -> Step:
    """A step in which rows stand at different columns, some with forced codes, the second (of several) finished."""
    codebook_size = vocabulary if codebook_size is None else codebook_size
    rows = batch * (1 + guided)
    columns = rng.integers(0, num_codes, batch).astype(np.int32)
    ends = np.full(batch, num_codes, np.int32)
    if batch > 1:
        ends[1] = columns[1]
    lengths = rng.integers(0, POSITIONS, batch).astype(np.int32)
    forced = np.where(rng.random((batch, num_codes)) < 0.2, rng.integers(0, codebook_size, (batch, num_codes)), FREE)
    return Step(
        logits=random_logits(rng, rows, vocabulary, kind),
        state=DecodeState(
            lengths=np.concatenate([lengths] * (1 + guided)),
            columns=columns,
            ends=ends,
            codes=np.full((batch, num_codes), FREE, np.int32),
            forced=forced.astype(np.int32),
            code_positions=rng.integers(0, 2**32, num_codes).astype(np.uint32),
            pictures=rng.integers(0, 2**32, batch).astype(np.uint32),
            sampling=random_sampling(rng, batch, codebook_size),
        ),
        x=rng.standard_normal((rows, HIDDEN)).astype(np.float32),
        token_embedding=rng.standard_normal((vocabulary, HIDDEN)).astype(tables),
        position_embedding=rng.standard_normal((POSITIONS, HIDDEN)).astype(tables),
    )


def run_kernel(runner: KernelRunner, step: Step, *, seed: int = 0, kernel: str | None = None) -> None:
    """Do the step in place; ``kernel`` names another than the one that the vocabulary asks for."""
    fields = [field.name for field in dataclasses.fields(DecodeStateAddresses)]
    launch = sample_codes(
        DecodeStateAddresses(**{name: int(runner.address(getattr(step.state, name))) for name in fields}),
        logits=int(runner.address(step.logits)),
        x=int(runner.address(step.x)),
        token_embedding=int(runner.address(step.token_embedding)),
        position_embedding=int(runner.address(step.position_embedding)),
        batch=len(step.state.columns),
        num_codes=step.state.codes.shape[1],
        vocabulary=step.logits.shape[1],
        hidden_size=step.x.shape[1],
        num_positions=len(step.position_embedding),
        guided=step.state.guided,
        tables=step.token_embedding.dtype,
    )
    if kernel is not None:
        launch = dataclasses.replace(launch, kernel=kernel)
    runner.launch(launch, seed=seed)
