"""The CUDA executor and the driver end to end: the real kernels on the CPU, against NumPy in float16."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.runtime.gpu.shim_device import ShimDevice, libraries
from tests.tolerances import DRIVER_HALF_LOGITS
from trt_vqgan.errors import BackendUnavailableError, CudaError, ShapeError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.reference import dense_step as reference
from trt_vqgan.kernels.reference.cached_attention import cached_attention
from trt_vqgan.kernels.reference.decode_state import FREE
from trt_vqgan.runtime.gpu.cuda_operations import CudaOperations
from trt_vqgan.runtime.gpu.driver import DeviceEngine
from trt_vqgan.runtime.gpu.executors.cuda import CudaExecutor
from trt_vqgan.runtime.gpu.state import Drawing, allocate_state
from trt_vqgan.runtime.guidance import Guidance
from trt_vqgan.runtime.philox import grid_position, random64
from trt_vqgan.runtime.sampler import Sampling, draw_codes
from trt_vqgan.spec import TransformerSpec

SPEC = TransformerSpec(vocab_size=61, max_seq_len=40, num_layers=2, num_heads=2, hidden_size=64)
COUNT = 8
GREEDY = Sampling(greedy=True)
DRAWN = Sampling(temperature=1.1, top_k=20, top_p=0.9)


def random_tensors(spec: TransformerSpec) -> dict[str, np.ndarray]:
    """Return weights as a bundle's file names and stores them."""
    rng = np.random.default_rng(0)
    width = spec.hidden_size

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.15, shape).astype(np.float16)

    def vector(size: int, mean: float = 0) -> np.ndarray:
        return rng.normal(mean, 0.15, size).astype(np.float32)

    tensors = {
        "tok_emb.weight": matrix(spec.vocab_size, width),
        "pos_emb": matrix(spec.max_seq_len, width),
        "ln_f.weight": vector(width, 1),
        "ln_f.bias": vector(width),
        "head.weight": matrix(spec.vocab_size, width),
    }
    for i in range(spec.num_layers):
        block = f"blocks.{i}"
        for norm in ("ln1", "ln2"):
            tensors |= {f"{block}.{norm}.weight": vector(width, 1), f"{block}.{norm}.bias": vector(width)}
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.0", 4 * width, width),
            ("mlp.2", width, 4 * width),
        ):
            tensors |= {f"{block}.{name}.weight": matrix(rows, columns), f"{block}.{name}.bias": vector(rows)}
    return tensors


@dataclasses.dataclass(frozen=True)
class Cuda:
    """The driver on the shim, and its weights."""

    device: ShimDevice
    engine: DeviceEngine
    tensors: dict[str, np.ndarray]

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Return logits float32 (B, T, V) by NumPy, rounded to float16 wherever the kernels round."""
        spec, tensors = SPEC, self.tensors
        batch, length = tokens.shape
        width = spec.hidden_size

        def layer(name: str) -> reference.Linear:
            return reference.Linear(weight=tensors[f"{name}.weight"], bias=tensors.get(f"{name}.bias"))

        def norm(name: str) -> reference.Norm:
            return reference.Norm(gain=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"])

        x = tensors["tok_emb.weight"][tokens].astype(np.float32) + tensors["pos_emb"][:length].astype(np.float32)
        flat = x.reshape(-1, width)
        for i in range(spec.num_layers):
            block = f"blocks.{i}"
            qkv = reference.norm_linear(flat, norm(f"{block}.ln1"), layer(f"{block}.attn.qkv"))
            shape = (batch, spec.num_heads, length, spec.head_size)
            attended = np.empty((batch, length, width), dtype=np.float16)
            cached_attention(
                qkv.reshape(batch, length, 3, spec.num_heads, spec.head_size),
                np.zeros(shape, np.float16),
                np.zeros(shape, np.float16),
                np.zeros(batch, np.int32),
                attended,
            )
            reference.linear_residual(attended.reshape(-1, width), layer(f"{block}.attn.proj"), flat)
            hidden = reference.norm_linear_gelu(flat, norm(f"{block}.ln2"), layer(f"{block}.mlp.0"))
            reference.linear_residual(hidden, layer(f"{block}.mlp.2"), flat)
        return reference.norm_logits(flat, norm("ln_f"), layer("head")).reshape(batch, length, -1)


@pytest.fixture(scope="module")
def cuda() -> Cuda:
    libraries()
    device, tensors = ShimDevice(), random_tensors(SPEC)
    engine = DeviceEngine(
        SPEC,
        device,
        operations=CudaOperations(device, SPEC, tensors["tok_emb.weight"], tensors["pos_emb"]),
        executor=CudaExecutor(device, SPEC, tensors),
    )
    return Cuda(device, engine, tensors)


def drawing(prefixes: list[np.ndarray], **options: Any) -> Drawing:
    batch = len(prefixes) if options.get("guidance_scale") is None else len(prefixes) // 2
    settings: dict[str, Any] = {
        "codes": np.full((batch, COUNT), FREE),
        "starts": np.zeros(batch, dtype=np.int64),
        "ends": np.full(batch, COUNT),
        "code_positions": np.array([grid_position(i // 4, i % 4) for i in range(COUNT)]),
        "sampling": (GREEDY,) * batch,
        "seeds": (5,) * batch,
        "pictures": np.arange(batch),
        "guidance_scale": None,
        "codebook_size": 50,
    }
    return Drawing(prefixes=tuple(prefixes), **(settings | options))


def test_prefill_and_steps_of_few_and_many_rows(cuda: Cuda) -> None:
    """One to four rows use the fused kernels in steps, nine those for more rows; 90 are prefilled through products."""
    for batch in (1, 4, 9):
        tokens = np.random.default_rng(batch).integers(0, 61, (batch, 12))
        wanted = cuda.logits(tokens)
        cache = cuda.engine.new_cache(batch=batch, capacity=12)
        found = cuda.engine.prefill(cache, tokens[:, :10], rows=np.array([2, 9]))
        np.testing.assert_allclose(found, wanted[:, [2, 9]], atol=DRIVER_HALF_LOGITS)
        for at in (10, 11):
            found = cuda.engine.stepper(cache).step(tokens[:, at], np.full(batch, at))
            np.testing.assert_allclose(found, wanted[:, at], atol=DRIVER_HALF_LOGITS)
    kernels = set(cuda.device.launched)
    assert {"dense_step_norm", "dense_step_norm_gelu", "dense_step_residual", "dense_step_norm_logits"} <= kernels
    assert {f"dense_rows_{kind}_16" for kind in ("linear", "gelu", "logits", "residual")} <= kernels
    assert {"layer_norm_rows", "bias_add", "bias_gelu", "bias_residual", "embed_tokens_half"} <= kernels


def test_greedy_codes_are_those_of_numpy_in_float16(cuda: Cuda) -> None:
    """Rows of different lengths, twice: the second time every step is a replay."""
    prefixes = [np.array([1, 2, 3]), np.array([9]), np.array([4, 5])]
    for _ in range(2):
        found = cuda.engine.draw(drawing(prefixes))
        for row, prefix in enumerate(prefixes):
            tokens = list(prefix)
            for code in found[row]:
                logits = cuda.logits(np.array([tokens]))[0, -1, :50]
                best = np.sort(logits)[-2:]
                assert best[1] - best[0] > 2 * DRIVER_HALF_LOGITS, "too near a tie to compare"
                assert code == logits.argmax()
                tokens.append(int(code))


@pytest.mark.parametrize("guidance_scale", [None, 1.5])
def test_drawn_codes_are_the_cpu_samplers_given_the_logits(cuda: Cuda, guidance_scale: float | None) -> None:
    """What each launch of the sampler finds, drawn again by the CPU's: bit for bit, in captured steps and others."""
    prefixes = [np.array([1, 2, 3]), np.array([9])]
    if guidance_scale is not None:
        prefixes += [np.array([0, 2, 3]), np.array([0])]
    codes = np.full((2, COUNT), FREE)
    codes[0, 3] = 17
    wanted = drawing(
        prefixes, codes=codes, guidance_scale=guidance_scale, sampling=(DRAWN, Sampling()), pictures=np.array([3, 8])
    )
    seen: list[np.ndarray] = []

    def note(launch: Launch) -> None:
        if launch.kernel.startswith("sample_codes"):
            (plan,) = plans
            seen.append(cuda.device.download(plan.logits))

    lend = cuda.engine._plans.lend
    plans: list[Any] = []

    class Noted:
        """The pool's loan, noted."""

        def __init__(self, size: Any) -> None:
            self._loan = lend(size)

        def __enter__(self) -> Any:
            plans.append(self._loan.__enter__())
            return plans[-1]

        def __exit__(self, *error: Any) -> Any:
            return self._loan.__exit__(*error)

    cuda.device.before_launch = note
    cuda.engine._plans.lend = Noted  # type: ignore[assignment]
    try:
        found = cuda.engine.draw(wanted)
    finally:
        cuda.device.before_launch = lambda launch: None
        cuda.engine._plans.lend = lend  # type: ignore[method-assign]
    assert len(seen) == COUNT
    for column, logits in enumerate(seen):
        for row in range(2):
            usable = logits[[row], :50]
            if guidance_scale is not None:
                both = np.concatenate([usable, logits[[row + 2], :50]])
                usable = Guidance(scale=guidance_scale, null_condition=np.array([0])).combined(both)
            random = random64(5, pictures=wanted.pictures[[row]], positions=wanted.code_positions[[column]])
            drawn = draw_codes(usable, wanted.sampling[row], random=random)[0]
            assert found[row, column] == (codes[row, column] if codes[row, column] != FREE else drawn)


def test_a_condition_that_pictures_share_is_read_by_one_kernel(cuda: Cuda) -> None:
    """Greedy codes of three pictures with two conditions, twice: the second time every step is a replay."""
    one, other = np.arange(1, 30), np.arange(30, 1, -1)
    prefixes = [one, other, one]
    for _ in range(2):
        del cuda.device.launched[:]
        with cuda.engine.sharing_from(1):
            found = cuda.engine.draw(drawing(prefixes))
        layers = SPEC.num_layers
        assert cuda.device.launched.count("cached_attention_prefix_32") == layers * (COUNT - 1)
        assert cuda.device.launched.count("cached_attention_step_32") == layers * (COUNT - 1)
        for row, prefix in enumerate(prefixes):
            tokens = list(prefix)
            for code in found[row]:
                logits = cuda.logits(np.array([tokens]))[0, -1, :50]
                assert code == logits.argmax() or logits.max() - logits[code] < 2 * DRIVER_HALF_LOGITS
                tokens.append(int(code))


def test_models_that_the_kernels_are_not_made_for() -> None:
    spec = dataclasses.replace(SPEC, num_heads=8)
    with pytest.raises(BackendUnavailableError, match="this model has heads of 8, wanted a multiple of 8 from 16"):
        CudaOperations(ShimDevice(), spec, np.zeros((61, 64)), np.zeros((40, 64)))


# --- planted faults ---------------------------------------------------------------------------------------------------


def test_a_stale_address_in_a_graph_is_noticed(cuda: Cuda) -> None:
    """State that was allocated anew behind the graph: replays write to what nobody reads."""
    wanted = drawing([np.array([1, 2])])
    right = cuda.engine.draw(wanted)
    (plan,) = (plan for size, plan in cuda.engine._plans._plans.items() if size.pictures == 1)
    kept = plan.state
    plan.state = allocate_state(cuda.device, batch=1, guided=False, num_codes=COUNT)
    assert not np.array_equal(cuda.engine.draw(wanted), right)
    kept.free()
    with pytest.raises(CudaError, match="an address of freed memory"):
        cuda.engine.draw(wanted)
    np.testing.assert_array_equal(cuda.engine.draw(wanted), right)


def test_a_freed_buffer_in_a_graph_is_noticed(cuda: Cuda) -> None:
    wanted = drawing([np.array([1, 2])])
    right = cuda.engine.draw(wanted)
    (plan,) = (plan for size, plan in cuda.engine._plans._plans.items() if size.pictures == 1)
    plan._work.attended.memory.free()
    with pytest.raises(CudaError, match="an address of freed memory"):
        cuda.engine.draw(wanted)
    np.testing.assert_array_equal(cuda.engine.draw(wanted), right)


def test_freed_prefixes_in_a_graph_are_noticed(cuda: Cuda) -> None:
    wanted = drawing([np.array([1, 2])] * 2)
    with cuda.engine.sharing_from(1):
        right = cuda.engine.draw(wanted)
        (plan,) = (plan for size, plan in cuda.engine._plans._plans.items() if size.prefix and size.pictures == 2)
        plan.prefix.cache._values.memory.free()
        with pytest.raises(CudaError, match=r"memory was freed|an address of freed memory"):
            cuda.engine.draw(wanted)
        np.testing.assert_array_equal(cuda.engine.draw(wanted), right)


def test_lengths_advanced_twice_are_noticed(cuda: Cuda) -> None:
    wanted = drawing([np.array([1, 2])])
    right = cuda.engine.draw(wanted)
    (plan,) = (plan for size, plan in cuda.engine._plans._plans.items() if size.pictures == 1)

    def advance(launch: Launch) -> None:
        if launch.kernel.startswith("sample_codes"):
            cuda.device.view(plan.state.lengths)[:] += 1

    found = None
    cuda.device.before_launch = advance
    with contextlib.suppress(ShapeError):  # skipped positions of the cache hold NaN, which is told
        found = cuda.engine.draw(wanted)
    cuda.device.before_launch = lambda launch: None
    assert not np.array_equal(found, right)
    np.testing.assert_array_equal(cuda.engine.draw(wanted), right)
