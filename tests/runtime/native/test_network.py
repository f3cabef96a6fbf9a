"""The CPU kernels' convolutional networks: each step against torch, whole VQGANs, and against themselves."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ROOT
from tests.export.autoencoder_cases import BASE, CASES, arrays_of, make_autoencoder
from tests.tolerances import (
    AUTOENCODER_RELATIVE,
    CONVOLUTION_BF16_RELATIVE,
    CONVOLUTION_FP32_RELATIVE,
    GROUP_NORM_ABSOLUTE,
    NETWORK_BF16_RELATIVE,
)
from trt_vqgan.benchmarks.shapes import PUBLISHED_F16 as F16
from trt_vqgan.errors import BackendUnavailableError, BundleError
from trt_vqgan.export.autoencoder_graph import decoder_graph, encoder_graph
from trt_vqgan.runtime.memory import decode_bytes, encode_bytes
from trt_vqgan.runtime.native import build
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.network import Network
from trt_vqgan.runtime.native.network_program import Step, decoder_steps, encoder_steps
from trt_vqgan.spec import AutoencoderSpec

if build.find_compiler() is None and build.find_library() is None:
    pytest.skip("no C++ compiler on this machine", allow_module_level=True)

FP32 = ("avx512", "avx2", "plain")
BF16 = ("amx",)
SANITIZED = "TRT_VQGAN_TESTS_SANITIZED_LIBRARY"


@dataclasses.dataclass
class Weights:
    """`GraphWeights` of arrays, with one norm at most."""

    arrays: dict[str, np.ndarray]
    path: ClassVar[Path] = Path("arrays")

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape if name in self.arrays else ()

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        assert self.arrays[name].shape == shape
        return np.ascontiguousarray(self.arrays[name], dtype=np.float32)

    def first_inputs(self, op: str) -> list[str]:
        name = {"Div": "norm.weight", "Sub": "norm.bias"}[op]
        return [name] if name in self.arrays else []


def open_network(
    steps: Sequence[Step], weights: Any, *, instructions: str = "", precision: str | None = None, threads: int = 2
) -> Network:
    if precision is None:
        precision = "bf16" if instructions in BF16 else "fp32"
    library = os.environ.get(SANITIZED)
    try:
        return Network(
            steps,
            weights,
            threads=threads,
            precision=precision,
            instructions=instructions,
            library=None if library is None else Path(library),
        )
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def random(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(name: str, outputs: int, inputs: int, side: int, seed: int = 0) -> dict[str, np.ndarray]:
    scale = np.float32(1 / np.sqrt(inputs * side * side))
    return {
        f"{name}.weight": random((outputs, inputs, side, side), seed) * scale,
        f"{name}.bias": random((outputs,), seed + 1),
    }


def rounded(array: np.ndarray) -> np.ndarray:
    """Return what bfloat16 keeps."""
    return torch.from_numpy(array).to(torch.bfloat16).to(torch.float32).numpy()


def reference_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mode: str) -> np.ndarray:
    """Return the published convolution in float64."""
    y = torch.from_numpy(x).double()[None]
    w, b = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    if mode == "double":
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    if mode == "halve":
        return F.conv2d(F.pad(y, (0, 1, 0, 1)), w, b, stride=2)[0].numpy()
    return F.conv2d(y, w, b, padding=weight.shape[2] // 2)[0].numpy()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


CONVOLUTIONS = [
    ("same", 3, 32, 32, 5, 7),
    ("same", 3, 3, 64, 17, 33),  # a picture's channels, and widths beyond one piece
    ("same", 3, 96, 3, 9, 40),  # half a panel
    ("same", 1, 48, 80, 6, 50),  # an odd number of blocks
    ("same", 1, 5, 19, 1, 1),
    ("same", 3, 512, 64, 20, 75),  # several tiles each way
    ("same", 3, 64, 64, 8, 4),  # whole tiles of Winograd's
    ("same", 3, 512, 512, 7, 5),  # so many weights that tiles are smaller
    ("halve", 3, 32, 64, 6, 10),
    ("halve", 3, 16, 32, 2, 2),
    ("halve", 3, 64, 32, 38, 70),
    ("double", 3, 64, 32, 5, 9),
    ("double", 3, 32, 16, 1, 1),
    ("double", 3, 256, 96, 33, 50),
]


@pytest.mark.parametrize("instructions", FP32 + BF16)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: tuple[Any, ...], instructions: str) -> None:
    mode, side, inputs, outputs, height, width = case
    arrays = layer("conv", outputs, inputs, side)
    x = random((inputs, height, width), 7)
    steps = [Step(kind="convolve", read=0, conv="conv", mode=mode)]
    found = open_network(steps, Weights(arrays), instructions=instructions).run(x)
    if instructions in FP32:
        wanted = reference_convolution(x, arrays["conv.weight"], arrays["conv.bias"], mode)
        assert relative(found, wanted) < CONVOLUTION_FP32_RELATIVE
        return
    weight = arrays["conv.weight"] if mode == "double" else rounded(arrays["conv.weight"])  # sums of taps are rounded
    wanted = reference_convolution(rounded(x), weight, arrays["conv.bias"], mode)
    assert relative(found, wanted) < (CONVOLUTION_BF16_RELATIVE if mode == "double" else CONVOLUTION_FP32_RELATIVE)


@pytest.mark.parametrize("mode", ["same", "halve", "double"])
@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_wrong_tap_is_noticed(mode: str, place: int) -> None:
    """A planted fault: one of nine taps of one kernel is another one."""
    arrays = layer("conv", 32, 32, 3)
    x = random((32, 6, 6))
    wanted = reference_convolution(x, arrays["conv.weight"], arrays["conv.bias"], mode)
    arrays["conv.weight"] = arrays["conv.weight"].copy()
    arrays["conv.weight"][5, 7].reshape(-1)[place] += 0.01
    found = open_network([Step(kind="convolve", read=0, conv="conv", mode=mode)], Weights(arrays)).run(x)
    assert relative(found, wanted) > CONVOLUTION_FP32_RELATIVE


def normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, swish: bool, instructions: str) -> np.ndarray:
    """Return x through a norm and a convolution that changes nothing."""
    channels = len(x)
    arrays = {
        "conv.weight": np.eye(channels, dtype=np.float32)[:, :, None, None],
        "conv.bias": np.zeros(channels, np.float32),
        "norm.weight": weight.reshape(1, 32, -1),
        "norm.bias": bias.reshape(1, 32, -1),
    }
    step = Step(kind="convolve", read=0, conv="conv", norm="norm", swish=swish)
    return open_network([step], Weights(arrays), instructions=instructions).run(x)


def reference_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, swish: bool) -> np.ndarray:
    arrays = (torch.from_numpy(array).double() for array in (x[None], weight, bias))
    y, w, b = arrays
    normal = F.group_norm(y, 32, w, b, eps=1e-6)[0]
    return (F.silu(normal) if swish else normal).numpy()


@pytest.mark.parametrize("instructions", FP32)
@pytest.mark.parametrize(("channels", "height", "width"), [(32, 3, 5), (96, 7, 1), (128, 40, 70)])
def test_norms(channels: int, height: int, width: int, instructions: str) -> None:
    x = random((channels, height, width))
    x[: channels // 4] = 3 + 0.01 * x[: channels // 4]  # nearly constant, where one-pass statistics lose everything
    x[channels // 4 : channels // 2] = 3.1
    weight, bias = random((channels,), 1), random((channels,), 2)
    found = normed(x, weight, bias, swish=False, instructions=instructions)
    wanted = reference_norm(x, weight, bias, swish=False)
    np.testing.assert_allclose(found, wanted, atol=GROUP_NORM_ABSOLUTE, rtol=0)


@pytest.mark.parametrize("instructions", FP32)
def test_swish(instructions: str) -> None:
    x = random((64, 9, 9))
    weight, bias = 40 * random((64,), 1), random((64,), 2)  # from -100 to 100
    found = normed(x, weight, bias, swish=True, instructions=instructions)
    wanted = reference_norm(x, weight, bias, swish=True)
    assert relative(found, wanted) < CONVOLUTION_FP32_RELATIVE


def test_a_wrong_norm_is_noticed() -> None:
    """A planted fault: two channels' weights are exchanged."""
    x, weight, bias = random((64, 4, 4)), random((64,), 1), random((64,), 2)
    wrong = weight.copy()
    wrong[[3, 4]] = weight[[4, 3]]
    found = normed(x, wrong, bias, swish=False, instructions="")
    assert np.abs(found - reference_norm(x, weight, bias, swish=False)).max() > 100 * GROUP_NORM_ABSOLUTE


@pytest.mark.parametrize("instructions", FP32)
@pytest.mark.parametrize(("channels", "height", "width"), [(32, 1, 1), (64, 5, 7), (96, 12, 31)])
def test_attention(channels: int, height: int, width: int, instructions: str) -> None:
    names = ("q", "k", "v")
    arrays = {
        key: value for i, name in enumerate(names) for key, value in layer(name, channels, channels, 1, i).items()
    }
    arrays["q.weight"] = arrays["q.weight"] * 8  # far from uniform
    x = random((channels, height, width), 9)
    steps = [Step(kind="convolve", read=0, conv=name) for name in names]
    steps.append(Step(kind="attend", read=1, key=2, value=3))
    found = open_network(steps, Weights(arrays), instructions=instructions).run(x)
    q, k, v = (
        torch.from_numpy(reference_convolution(x, arrays[f"{n}.weight"], arrays[f"{n}.bias"], "same")).flatten(1)
        for n in names
    )
    wanted = v @ torch.softmax(q.T @ k * channels**-0.5, dim=1).T
    assert relative(found, wanted.reshape(x.shape).numpy()) < AUTOENCODER_RELATIVE


@pytest.mark.parametrize("kind", ["shrink", "repeat"])
def test_resampling_without_a_convolution(kind: str) -> None:
    x = random((48, 6, 10))
    arrays = {"conv.weight": np.eye(48, dtype=np.float32)[:, :, None, None], "conv.bias": np.zeros(48, np.float32)}
    steps = [Step(kind=kind, read=0), Step(kind="convolve", read=1, conv="conv")]
    found = open_network(steps, Weights(arrays)).run(x)
    if kind == "repeat":
        np.testing.assert_array_equal(found, x.repeat(2, axis=1).repeat(2, axis=2))
    else:
        np.testing.assert_allclose(found, F.avg_pool2d(torch.from_numpy(x), 2).numpy(), atol=1e-6)


def vqgan(spec: AutoencoderSpec, folder: Path, **options: Any) -> tuple[Network, Network, Any]:
    """Return encoder, decoder and the reference they are exported from."""
    model = make_autoencoder(spec)
    found = []
    for name, graph, steps in (("e", encoder_graph, encoder_steps), ("d", decoder_graph, decoder_steps)):
        path = folder / f"{name}.onnx"
        path.write_bytes(graph(spec, arrays_of(model)).SerializeToString())
        weights = GraphWeights(path)
        program = steps(spec, has=lambda layer, weights=weights: f"{layer}.weight" in weights)
        found.append(open_network(program, weights, **options))
    return found[0], found[1], model


def inputs(spec: AutoencoderSpec, model: Any, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a picture, codes and the codes' entries (D, h, w)."""
    rng = np.random.default_rng(0)
    picture = rng.uniform(-1, 1, (spec.in_channels, height * spec.factor, width * spec.factor)).astype(np.float32)
    codes = rng.integers(0, spec.codebook_size, (height, width))
    entries = model.quantize.codebook.detach().numpy()[codes].transpose(2, 0, 1)
    return picture, codes, np.ascontiguousarray(entries)


@pytest.mark.parametrize("instructions", ["avx512", "plain", "amx"])
@pytest.mark.parametrize("name", CASES)
def test_whole_vqgans(tmp_path: Path, name: str, instructions: str) -> None:
    spec = CASES[name]
    encoder, decoder, model = vqgan(spec, tmp_path, instructions=instructions)
    limit = NETWORK_BF16_RELATIVE if instructions in BF16 else AUTOENCODER_RELATIVE
    for height, width in ((4, 4), (3, 5)):
        picture, codes, entries = inputs(spec, model, height, width)
        latents = model.encode_latents(torch.from_numpy(picture)[None])[0].numpy()
        assert relative(encoder.run(picture), latents) < limit
        pixels = model.decode_codes(torch.from_numpy(codes)[None])[0].numpy()
        assert relative(decoder.run(entries), pixels) < limit


@pytest.mark.parametrize(("instructions", "other"), [("avx512", "avx2"), ("plain", "plain"), ("amx", "amx")])
def test_bits_depend_on_neither_threads_nor_width_of_registers(tmp_path: Path, instructions: str, other: str) -> None:
    """Of a picture of several tiles."""
    spec = dataclasses.replace(BASE, base_channels=64)
    first = vqgan(spec, tmp_path, instructions=instructions, threads=1)
    second = vqgan(spec, tmp_path, instructions=other, threads=3)
    picture, _, entries = inputs(spec, first[2], 17, 25)
    np.testing.assert_array_equal(first[0].run(picture), second[0].run(picture))
    np.testing.assert_array_equal(first[1].run(entries), second[1].run(entries))


def test_one_network_runs_pictures_of_any_size(tmp_path: Path) -> None:
    """What a run leaves behind has no effect on the next one."""
    _, decoder, model = vqgan(BASE, tmp_path)
    sizes = [(9, 4), (2, 3), (4, 9), (9, 4)]
    found = [decoder.run(inputs(BASE, model, *size)[2]) for size in sizes]
    np.testing.assert_array_equal(found[0], found[3])
    fresh = vqgan(BASE, tmp_path)[1]
    np.testing.assert_array_equal(found[1], fresh.run(inputs(BASE, model, 2, 3)[2]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "spec", [dataclasses.replace(F16, base_channels=32, z_channels=32, code_dim=32), CASES["f8"]], ids=["f16", "f8"]
)
def test_memory_stays_below_what_is_assumed(tmp_path: Path, spec: AutoencoderSpec, precision: str) -> None:
    encoder, decoder, _ = vqgan(spec, tmp_path, precision=precision)
    for height, width in ((16, 16), (20, 64), (128, 128)):
        decoded = decoder.run_bytes(height, width)
        encoded = encoder.run_bytes(height * spec.factor, width * spec.factor)
        assert decoded < decode_bytes(spec, height, width)
        assert encoded < encode_bytes(spec, height, width)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    vqgan(BASE, tmp_path)
    weights = GraphWeights(tmp_path / "d.onnx")
    with pytest.raises(BundleError, match=r"convolution 'encoder.conv_in' is missing.*export the bundle again"):
        open_network(encoder_steps(BASE, has=lambda layer: False), weights)
    steps = [step for step in decoder_steps(BASE, has=lambda layer: f"{layer}.weight" in weights) if not step.norm]
    with pytest.raises(BundleError, match=r"scales and .* shifts of norms, wanted 0"):
        open_network(steps, weights)


def test_unknown_instructions_are_refused() -> None:
    steps = [Step(kind="convolve", read=0, conv="conv")]
    with pytest.raises(BackendUnavailableError, match="has no vax instructions"):
        Network(steps, Weights(layer("conv", 32, 32, 1)), threads=1, instructions="vax")  # type: ignore[arg-type]


@pytest.mark.slow
def test_under_the_address_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read or written outside: the tests above that run every kernel, in a process of their own."""
    compiler = build.find_compiler()
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    if compiler is None or sys.platform != "linux" or runtime.returncode or "/" not in runtime.stdout:
        pytest.skip("no g++ with its address sanitizer on this machine")
    monkeypatch.setattr(build, "COMPILERS", ("g++",))
    monkeypatch.setattr(build, "_OPTIONS", (*build._OPTIONS, "-g", "-O1", "-fsanitize=address"))
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path))
    environment = {
        **os.environ,
        SANITIZED: str(build.built_library()),
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    names = "test_convolutions or test_attention or test_whole_vqgans or any_size"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_a_value_added_to_its_own_convolution_is_not_overwritten() -> None:
    x = random((64, 40, 40))
    arrays = layer("first", 64, 64, 1) | layer("second", 64, 64, 3, seed=5)
    steps = [Step(kind="convolve", read=0, conv="first"), Step(kind="convolve", read=1, conv="second", add=1)]
    network = open_network(steps, Weights(arrays))
    middle = reference_convolution(x, arrays["first.weight"], arrays["first.bias"], "same")
    wanted = middle + reference_convolution(middle, arrays["second.weight"], arrays["second.bias"], "same")
    for _ in range(10):
        assert relative(network.run(x), wanted) < CONVOLUTION_FP32_RELATIVE
