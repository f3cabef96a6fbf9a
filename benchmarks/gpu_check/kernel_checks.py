"""Every kernel against its definition: what a GPU checks, and the tests on the CPU before it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from trt_vqgan.benchmarks.kernel_cases import equal, nearest_code
from trt_vqgan.benchmarks.kernel_cases.attention import AttentionCase
from trt_vqgan.benchmarks.kernel_cases.decode_states import random_step, run_kernel
from trt_vqgan.benchmarks.kernel_cases.dense_rows import DENSE_KINDS, DenseRowsCase
from trt_vqgan.benchmarks.kernel_cases.dense_step import KINDS, DenseCase
from trt_vqgan.benchmarks.kernel_cases.pictures import (
    FLOAT,
    HALF,
    ConvCase,
    check_argmax,
    check_attention,
    check_group_norm,
    check_layout,
)
from trt_vqgan.benchmarks.kernel_cases.rows import BIAS_KINDS, check_bias, check_layer_norm
from trt_vqgan.benchmarks.kernel_cases.runner import KernelRunner
from trt_vqgan.kernels.launches.cached_attention import HEAD_SIZES, AttentionPlan, plan_attention
from trt_vqgan.kernels.launches.dense_rows import DenseKind
from trt_vqgan.kernels.packed_codebook import pack_codebook
from trt_vqgan.kernels.reference.decode_state import sample_step
from trt_vqgan.kernels.reference.nearest_code import nearest_code_plain

# Allowed errors: those of the CPU tests (tests/tolerances.py), wider where the exponential of a GPU, its order
# of summation or its tensor cores, which keep fewer bits of a sum than float32, come in. None has been measured on one.
ATTENTION_STEP = 1e-5
ATTENTION_TOKENS = 2e-3
DENSE_RELATIVE = 2e-5
DENSE_ABSOLUTE = 2e-6
LAYER_NORM_ABSOLUTE = 4e-6
CONV_RELATIVE = 2e-6
GROUP_NORM_ABSOLUTE = 2e-5
PICTURE_ATTENTION_HALF = 2e-3
PICTURE_ATTENTION_FLOAT = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is checked.

    Attributes
    ----------
    head_sizes : of attention.
    latents : (rows, size, dim) of nearest_code, each with every kind of latents.
    vocabularies : of sample_codes.
    matrices, wide_matrices : (outputs, inputs, rows) of the dense parts, of up to 8 and up to 64 rows.
    rows : (rows, columns) of the row kernels.
    capacity : positions of attention's caches.
    convolutions : of VQGANs.
    pictures : (B, H, W, C) of norms, H and W even.
    attended : (batch, positions, channels) of the attention of pictures.
    """

    head_sizes: tuple[int, ...]
    latents: tuple[tuple[int, int, int], ...]
    vocabularies: tuple[int, ...]
    matrices: tuple[tuple[int, int, int], ...]
    wide_matrices: tuple[tuple[int, int, int], ...]
    rows: tuple[tuple[int, int], ...]
    capacity: int
    convolutions: tuple[ConvCase, ...]
    pictures: tuple[tuple[int, int, int, int], ...]
    attended: tuple[tuple[int, int, int], ...]


TINY = Extent(
    head_sizes=(40,),
    latents=((3, 65, 8), (5, 129, 32)),
    vocabularies=(7, 257),
    matrices=((40, 104, 3),),
    wide_matrices=((72, 264, 12),),
    rows=((3, 104),),
    capacity=70,
    convolutions=(
        ConvCase(channels=3, outputs=40),
        ConvCase(outputs=128, has_residual=True, multiprocessors=1),
        ConvCase(channels=40, outputs=3, form="planes"),
        ConvCase(outputs=20, form="float", dtype=FLOAT),
    ),
    pictures=((2, 4, 6, 64),),
    attended=((2, 35, 96),),
)
"""A few seconds under the CPU shim, and about a minute under a sanitizer."""

FULL = Extent(
    head_sizes=tuple(HEAD_SIZES),
    latents=(
        (1, 1, 4),
        (129, 1024, 16),
        (127, 65, 32),
        (129, 1024, 64),
        (65, 1024, 256),
        (33, 300, 512),
        (127, 16384, 256),
    ),
    vocabularies=(1, 2, 64, 1024, 16384),
    matrices=((64, 512, 8), (17, 2048, 1), (3072, 1024, 1), (1536, 6144, 8), (4608, 1536, 4), (1024, 1536, 7)),
    wide_matrices=((17, 136, 9), (3072, 1024, 16), (1536, 6144, 64), (4608, 1536, 33), (16384, 1536, 64)),
    rows=((1, 8), (9, 1032), (512, 1536)),
    capacity=530,
    convolutions=tuple(
        dataclasses.replace(ConvCase(**sizes), multiprocessors=multiprocessors)
        for sizes in (
            {"height": 1, "width": 1, "channels": 3, "outputs": 3},
            {"batch": 2, "height": 64, "width": 65, "channels": 3, "outputs": 128},
            {"batch": 2, "height": 33, "width": 47, "channels": 128, "outputs": 3, "form": "planes"},
            {"batch": 3, "height": 16, "width": 16, "channels": 512, "outputs": 512, "has_residual": True},
            {"height": 32, "width": 30, "channels": 256, "outputs": 128, "side": 1},
            {"batch": 2, "height": 31, "width": 32, "channels": 128, "outputs": 128, "mode": "halve"},
            {"batch": 2, "height": 17, "width": 16, "channels": 256, "outputs": 256, "mode": "double"},
            {"height": 16, "width": 16, "channels": 256, "outputs": 256, "side": 1, "form": "float", "dtype": FLOAT},
            {"height": 9, "width": 8, "channels": 256, "outputs": 136, "form": "float", "dtype": FLOAT},
        )
        for multiprocessors in (1, 10**6)
    ),
    pictures=((1, 2, 2, 32), (2, 16, 16, 512), (2, 64, 66, 128), (1, 2, 4, 2048), (1, 256, 256, 128)),
    attended=((1, 1, 32), (2, 256, 512), (1, 1000, 256), (2, 77, 96)),
)
"""Every head size, and the sizes of real models."""


def kernel_checks(
    extent: Extent, *, multiprocessors: int, shared_limit: int
) -> Iterator[tuple[str, Callable[[KernelRunner], str]]]:
    """Yield the name of each check and what does it: raises AssertionError, or returns the error that was found.

    Parameters
    ----------
    multiprocessors : of the device.
    shared_limit : shared memory that a block may have, in bytes.
    """
    for sizes in extent.latents:
        for case in nearest_code.CASES:
            yield (
                f"nearest_code {case.__name__} {sizes}",
                functools.partial(_nearest, case, sizes, multiprocessors, shared_limit),
            )
    for head_size in extent.head_sizes:
        for name, plan, lengths, group in _attention_plans(head_size, extent.capacity):
            yield f"cached_attention {name} head {head_size}", functools.partial(_attention, plan, lengths, group)
    for i, vocabulary in enumerate(extent.vocabularies):
        for kind in range(7):
            yield (
                f"sample_codes V={vocabulary} kind {kind}",
                functools.partial(_sample, vocabulary, kind, seed=7 * i + kind),
            )
    for outputs, inputs, rows in extent.matrices:
        for kind_name in KINDS:
            sizes = (outputs, inputs, rows)
            yield f"{kind_name} {sizes}", functools.partial(_dense, kind_name, sizes, multiprocessors)
    for sizes in extent.wide_matrices:
        for wide_kind in DENSE_KINDS:
            yield f"dense_rows {wide_kind} {sizes}", functools.partial(_dense_rows, wide_kind, sizes, multiprocessors)
    for rows, columns in extent.rows:
        yield f"layer_norm {rows}x{columns}", functools.partial(_layer_norm, rows, columns)
        for kind_name in BIAS_KINDS:
            yield f"{kind_name} {rows}x{columns}", functools.partial(_bias, kind_name, rows, columns)
    yield from _picture_checks(extent)
    for dtype in (np.float16, np.float32):
        name = np.dtype(dtype).name
        yield f"embed_tokens {name}", functools.partial(_equal, equal.check_embedding, 3, 5, 104, dtype)
        yield f"gather_codes {name}", functools.partial(_equal, equal.check_gather, 37, 64, 24, dtype)
        yield f"pixels {name}", functools.partial(_equal, equal.check_pixels, (2, 3, 5, 7), dtype)


def _picture_checks(extent: Extent) -> Iterator[tuple[str, Callable[[KernelRunner], str]]]:
    """Yield the checks of a VQGAN's layers."""
    for case in extent.convolutions:
        kind = "float" if case.dtype == FLOAT else "half"
        tile = "large tile" if case.multiprocessors == 1 else "small tile"
        name = (
            f"conv2d {kind} {case.channels}->{case.outputs} {case.side}x{case.side} {case.mode}, "
            f"{case.batch}x{case.height}x{case.width}, {case.form}, {tile}"
        )
        yield (
            name,
            lambda runner, case=case: _within(  # type: ignore[misc]
                case.check(runner, relative=CONV_RELATIVE), CONV_RELATIVE
            ),
        )
    for shape in extent.pictures:
        for given, made in ((HALF, HALF), (FLOAT, FLOAT), (HALF, FLOAT), (FLOAT, HALF)):
            yield (
                f"group_norm {given} to {made} {shape}",
                lambda runner, shape=shape, given=given, made=made: _within(  # type: ignore[misc]
                    check_group_norm(runner, shape, given=given, made=made, absolute=GROUP_NORM_ABSOLUTE),
                    GROUP_NORM_ABSOLUTE,
                ),
            )
        for dtype in (HALF, FLOAT):
            yield f"picture_layout {dtype} {shape}", functools.partial(_equal, check_layout, shape, dtype)
    for sizes in extent.attended:
        for dtype, tolerance in ((HALF, PICTURE_ATTENTION_HALF), (FLOAT, PICTURE_ATTENTION_FLOAT)):
            yield (
                f"picture_attention {dtype} {sizes}",
                lambda runner, sizes=sizes, dtype=dtype, tolerance=tolerance: _within(  # type: ignore[misc]
                    check_attention(runner, *sizes, dtype=dtype, absolute=tolerance), tolerance
                ),
            )
    yield "argmax_rows", functools.partial(_equal, check_argmax, 9, 50)


def _within(error: float, tolerance: float) -> str:
    return f"error {error:.1e} of {tolerance:.0e}"


def _nearest(
    case: nearest_code.Case,
    sizes: tuple[int, int, int],
    multiprocessors: int,
    shared_limit: int,
    runner: KernelRunner,
) -> str:
    rows, size, dim = sizes
    z, codebook = case(np.random.default_rng(rows * size + dim), rows, size, dim)
    codes, looks = equal.look_up(
        runner, z, pack_codebook(codebook), multiprocessors=multiprocessors, shared_limit=shared_limit
    )
    with np.errstate(all="ignore"):
        wanted = nearest_code_plain(z, codebook)
    np.testing.assert_array_equal(codes, wanted)
    return f"equal; {np.mean(looks):.1f} looks a row" if dim > 16 else "equal"


def _attention_plans(head_size: int, capacity: int) -> Iterator[tuple[str, AttentionPlan, list[int], list[int] | None]]:
    edges = [length for length in (0, 1, 63, 64, 127, 128) if length < capacity - 3]
    lengths = [*edges, capacity - 3, capacity, -1]
    for tokens in (1, 3, 20):
        plan = plan_attention(
            batch=len(lengths), tokens=tokens, heads=2, head_size=head_size, capacity=capacity, num_unmasked=tokens // 3
        )
        yield f"of {tokens} tokens", plan, lengths, None
    group = [0, 1, *[0] * 16]
    behind = [0, 1, 2, *[min(7 * i, capacity - 3) for i in range(len(group) - 3)]]
    plan = plan_attention(
        batch=len(group),
        tokens=1,
        heads=2,
        head_size=head_size,
        capacity=capacity,
        prefix_length=65,
        prefix_sets=3,
    )
    yield "with a shared prefix", plan, [65 + length for length in behind], group


def _attention(plan: AttentionPlan, lengths: list[int], group: list[int] | None, runner: KernelRunner) -> str:
    tolerance = ATTENTION_STEP if plan.tokens == 1 and group is None else ATTENTION_TOKENS
    case = AttentionCase(plan, lengths, place=runner.place, group=group, seed=plan.head_size)
    errors = []
    for seed in range(2):  # the second on the workspace of the first
        case.run(runner, seed=seed)
        errors.append(case.check(tolerance))
        case.advance()
    return f"error {max(errors):.1e} of {tolerance:.0e}"


def _sample(vocabulary: int, kind: int, runner: KernelRunner, *, seed: int) -> str:
    for guided in (False, True):
        step = random_step(np.random.default_rng(seed), vocabulary=vocabulary, kind=kind, guided=guided)
        wanted, found = step.placed(np.array), step.placed(runner.place)
        sample_step(
            wanted.logits,
            wanted.state,
            wanted.x,
            token_embedding=wanted.token_embedding,
            position_embedding=wanted.position_embedding,
        )
        run_kernel(runner, found, seed=seed)
        for name, array in found.written().items():
            np.testing.assert_array_equal(array, wanted.written()[name], err_msg=name)
    return "equal"


def _dense(kind: str, sizes: tuple[int, int, int], multiprocessors: int, runner: KernelRunner) -> str:
    worst = DenseCase.random(*sizes, multiprocessors).check(
        runner, kind, relative=DENSE_RELATIVE, absolute=DENSE_ABSOLUTE
    )
    return f"error {worst:.2f} of what is allowed"


def _dense_rows(kind: DenseKind, sizes: tuple[int, int, int], multiprocessors: int, runner: KernelRunner) -> str:
    worst = DenseRowsCase(*sizes, multiprocessors).check(runner, kind, relative=DENSE_RELATIVE, absolute=DENSE_ABSOLUTE)
    return f"error {worst:.2f} of what is allowed"


def _layer_norm(rows: int, columns: int, runner: KernelRunner) -> str:
    worst = check_layer_norm(runner, rows, columns, absolute=LAYER_NORM_ABSOLUTE)
    return f"error {worst:.1e} of {LAYER_NORM_ABSOLUTE:.0e}"


def _bias(kind: str, rows: int, columns: int, runner: KernelRunner) -> str:
    worst = check_bias(runner, kind, rows, columns, absolute=DENSE_ABSOLUTE)
    return f"error {worst:.1e} of {DENSE_ABSOLUTE:.0e}"


def _equal(check: Callable[..., None], *arguments: object) -> str:
    *sizes, runner = arguments
    check(runner, *sizes)
    return "equal"
