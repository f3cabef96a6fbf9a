"""The dense parts of a decode step, run by the kernels on the processor, against their definition."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from tests.kernels.shim.shim import CSRC, ShimLibrary, load, run_sanitized
from tests.tolerances import DENSE_STEP_LARGE_MEAN_RELATIVE, DENSE_STEP_RELATIVE, GELU_ABSOLUTE
from trt_vqgan.benchmarks.kernel_cases.dense_step import KINDS
from trt_vqgan.benchmarks.kernel_cases.dense_step import DenseCase as Case
from trt_vqgan.errors import ShapeError
from trt_vqgan.kernels.launches.dense_step import plan_dense_step
from trt_vqgan.kernels.reference import dense_step as reference

# N, K, rows, multiprocessors: whole tiles and parts, K of one block and of several rounds, one split and many.
CASES = [
    (16, 8, 1, 1),
    (40, 24, 2, 1),
    (33, 104, 3, 1),
    (104, 104, 5, 132),
    (64, 512, 8, 4),
    (48, 1032, 4, 132),
    (17, 2048, 1, 132),
    (32, 4096, 8, 132),
    (32, 1536, 7, 1),
    (17, 2048, 1, 1),
]


@pytest.fixture(scope="module")
def library() -> ShimLibrary:
    return load(["dense_step.cu"])


def check(
    library: ShimLibrary,
    case: Case,
    kind: str,
    *,
    seed: int = 0,
    kernel: str | None = None,
    relative: float = DENSE_STEP_RELATIVE,
) -> None:
    case.check(library, kind, relative=relative, absolute=GELU_ABSOLUTE, seed=seed, kernel=kernel)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", CASES)
def test_kernel_is_the_definition(library: ShimLibrary, kind: str, sizes: tuple[int, int, int, int]) -> None:
    check(library, Case.random(*sizes), kind, seed=sizes[2])


def test_cases_have_one_split_and_many() -> None:
    plans = [Case.random(*sizes).plan for sizes in CASES]
    assert {plan.splits for plan in plans} >= {1, 2, 4}
    assert any(plan.inputs % 32 and plan.splits > 1 for plan in plans)
    assert any(plan.blocks_of_split > 32 for plan in plans)  # more than a warp has in flight


def test_rows_with_a_large_mean(library: ShimLibrary) -> None:
    """The variance is taken about the mean: of 3000 +- 3 a one-pass variance would keep no digit."""
    case = Case.random(48, 256, 3, 1, offset=3000.0)
    check(library, case, "norm_logits", relative=DENSE_STEP_LARGE_MEAN_RELATIVE)


def test_a_constant_row_gives_the_bias(library: ShimLibrary) -> None:
    case = Case.random(48, 64, 2, 1)
    case.x[0] = 7.0
    check(library, case, "norm_logits")


@pytest.mark.parametrize("kind", ["norm_logits", "linear_residual"])
def test_no_bias(library: ShimLibrary, kind: str) -> None:
    case = Case.random(48, 64, 2, 1)
    check(library, dataclasses.replace(case, layer=dataclasses.replace(case.layer, bias=None)), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_blocks_changes_no_bit(library: ShimLibrary, kind: str) -> None:
    case = Case.random(32, 2048, 8, 132)
    assert case.plan.splits > 2
    first = case.found(library, kind)
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(case.found(library, kind, seed=seed), first)


def test_a_row_does_not_depend_on_its_neighbours(library: ShimLibrary) -> None:
    """But for the order in which its mean is summed, which the number of rows decides. A row of NaN stays one."""
    case = Case.random(40, 104, 8, 1)
    case.x[5] = np.nan
    whole = case.found(library, "norm_linear")
    assert np.isnan(whole[5]).all()
    for rows in (1, 2, 4):
        part = dataclasses.replace(case, plan=dataclasses.replace(case.plan, rows=rows), x=case.x[:rows])
        check(library, part, "norm_linear")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(40, 104), (32, 4096), (48, 1032)])
def test_a_row_has_the_same_bits_beside_any_others(library: ShimLibrary, kind: str, sizes: tuple[int, int]) -> None:
    """Where the plan is asked for it; otherwise the number of rows decides how its sums are split."""
    equal = {}
    for same_bits in (True, False):
        whole = Case.random(*sizes, 8, 1, same_bits=same_bits)
        wanted = whole.found(library, kind)
        equal[same_bits] = [
            np.array_equal(whole.leading(rows, 1, same_bits=same_bits).found(library, kind, seed=rows), wanted[:rows])
            for rows in (1, 2, 3, 5)
        ]
    assert all(equal[True])
    if sizes == (32, 4096) and kind in ("norm_logits", "linear_residual"):  # others may round to the same halves
        assert not all(equal[False])


def test_gelu_is_the_one_by_erf() -> None:
    import torch

    x = np.linspace(-6, 6, 2001)
    wanted = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(reference.gelu(x), wanted, rtol=0, atol=1e-14)
    tanh = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    assert np.abs(reference.gelu(x) - tanh).max() > 100 * GELU_ABSOLUTE


def test_layer_norm_is_torch_s() -> None:
    import torch

    case = Case.random(16, 104, 3, 1)
    wanted = torch.nn.functional.layer_norm(
        torch.from_numpy(case.x).double(),
        (104,),
        torch.from_numpy(case.norm.gain).double(),
        torch.from_numpy(case.norm.bias).double(),
    )
    np.testing.assert_allclose(reference.layer_norm(case.x, case.norm), wanted.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [64, 104, 256, 768, 1024, 1536, 2048])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_plans_fit_a_multiprocessor(hidden: int, rows: int) -> None:
    for outputs, inputs in (
        (3 * hidden, hidden),
        (hidden, hidden),
        (4 * hidden, hidden),
        (hidden, 4 * hidden),
        (16384, hidden),
    ):
        plan = plan_dense_step(outputs=outputs, inputs=inputs, rows=rows, multiprocessors=132)
        assert plan.shared_bytes <= 48 << 10
        blocks = -(-inputs // 32)
        assert (plan.splits - 1) * plan.blocks_of_split < blocks <= plan.splits * plan.blocks_of_split


@pytest.mark.parametrize("bad", [{"rows": 0}, {"rows": 9}, {"inputs": 12}, {"inputs": 0}, {"outputs": 0}])
def test_sizes_out_of_range_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ShapeError, match="dense_step"):
        plan_dense_step(**({"outputs": 16, "inputs": 32, "rows": 1, "multiprocessors": 132} | bad))


FAULTS = {
    "the halves of an operand exchanged": (
        "return {{bits.x, bits.y, bits.z, bits.w}}",
        "return {{bits.z, bits.w, bits.x, bits.y}}",
    ),
    "rows of the tile exchanged": ("(output / 8) * 2 + row % 2", "(1 - output / 8) * 2 + row % 2"),
    "the padding of K not zeroed": ("    zero_padding(part, product);\n", ""),
    "columns of other lanes": ("min(lane / 4, product.rows - 1)", "min(lane % 8, product.rows - 1)"),
    "the last split forgotten": ("i < splits; i++) sum += __ldcg", "i < splits - 1; i++) sum += __ldcg"),
    "the ticket not set back": ("if (*is_last) product.tickets[tile] = 0;", ""),
    "the slots not waited for": ("if (!*is_last) return;", "if (split != splits - 1) return;"),
    "weights of the round before": ("flight[i][1] = load_weights(weights + (block + kDepth * kWarps) * 64 + 32);", ""),
    "the bias of the neighbour": ("sum += product.bias[n];", "sum += product.bias[n ? n - 1 : 0];"),
    "a missing barrier": (
        "    stage_activations(part, sums);\n    __syncthreads();\n",
        "    stage_activations(part, sums);\n",
    ),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> ShimLibrary:
    """Kernels fault0_dense_step_norm_logits and so on, each with one of `FAULTS`."""
    device, *kernels = re.split(r'(?=extern "C")', (CSRC / "dense_step.cu").read_text())
    source = device + next(kernel for kernel in kernels if "dense_step_norm_logits" in kernel)
    folder = tmp_path_factory.mktemp("faults")
    paths = []
    for number, (right, wrong) in enumerate(FAULTS.values()):
        assert source.count(right) == 1, right
        path = folder / f"fault{number}.cu"
        path.write_text(source.replace(right, wrong).replace("    dense_step_", f"    fault{number}_dense_step_"))
        paths.append(path)
    return load(paths)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(faulty: ShimLibrary, fault: str) -> None:
    prefix = f"fault{list(FAULTS).index(fault)}_"
    with pytest.raises(AssertionError):
        for seed in range(3):
            for sizes in CASES:
                check(faulty, Case.random(*sizes), "norm_logits", seed=seed, kernel=prefix + "dense_step_norm_logits")


def test_under_the_address_sanitizer() -> None:
    assert "passed" in run_sanitized(__file__, "-k", "kernel_is_the_definition or changes_no_bit")
