"""Building the CUDA sources: what is kept, what is said, and how many registers every kernel takes."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from tests.kernels.register_limits import limit_of
from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.kernels import building, compiling
from trt_vqgan.kernels.building import (
    ARCHITECTURES,
    KernelUsage,
    build_kernels,
    find_nvcc,
    kernel_images,
    resource_usage,
)
from trt_vqgan.kernels.nvrtc import find_nvrtc

PRINTED = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'row_sums' for 'sm_80'
ptxas info    : Function properties for row_sums
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 440 bytes cmem[0]
ptxas info    : Compile time = 21.345 ms
ptxas info    : Compiling entry function 'scale' for 'sm_100'
ptxas info    : Function properties for scale
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""


def test_what_nvcc_prints_is_read() -> None:
    assert resource_usage(PRINTED) == (
        KernelUsage(kernel="row_sums", architecture=80, registers=40, spill_bytes=16, stack_bytes=8),
        KernelUsage(kernel="scale", architecture=100, registers=12, spill_bytes=0, stack_bytes=0),
    )


# ---- the real sources


def test_registers_and_spills_of_every_kernel() -> None:
    """Built once for each version of the sources, into the temporary folder."""
    if find_nvcc() is None:
        pytest.skip("nvcc is not on this machine; it counts registers")
    built = build_kernels(Path(tempfile.gettempdir()) / f"trt-vqgan-kernels-{os.getuid()}")
    assert built.architectures == ARCHITECTURES
    assert {usage.architecture for usage in built.usage} == set(ARCHITECTURES)
    too_many = [usage for usage in built.usage if usage.registers > limit_of(usage.kernel)]
    assert not too_many
    spilled = [usage for usage in built.usage if usage.spill_bytes or usage.stack_bytes]
    assert not spilled


def test_limits_are_the_narrowest_that_fit() -> None:
    assert limit_of("nearest_code_tiles_64") > limit_of("nearest_code_settle") == limit_of("a_new_kernel") == 64


# ---- small sources


SCALE = """
#include "factor.cuh"
extern "C" __global__ void __launch_bounds__(256) scale(float *x) { x[threadIdx.x] *= kFactor; }
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "scale.cu").write_text(SCALE)
    (folder / "factor.cuh").write_text("constexpr float kFactor = 2.f;\n")
    monkeypatch.setattr(building, "SOURCES", folder)
    return folder


@pytest.fixture
def fake_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvcc that writes its arguments into the image and a line into ``calls``; fails where a source says so."""
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "arguments = sys.argv[1:]\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(arguments) + '\\n')\n"
        "if '--version' in arguments: print('Cuda compilation tools, release 13.0, V13.0.88'); sys.exit()\n"
        "source = open(arguments[arguments.index('-fatbin') + 1]).read()\n"
        "if 'undeclared' in source:\n"
        "    print('scale.cu(3): error: identifier \"undeclared\" is undefined', file=sys.stderr)\n"
        "    sys.exit(2)\n"
        "open(arguments[-1], 'w').write(' '.join(arguments[:-3]))\n"
        f"print({PRINTED!r}, file=sys.stderr)\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(building, "find_nvcc", lambda: str(script))
    return tmp_path / "calls"


def _calls(calls: Path) -> list[str]:
    return [line for line in calls.read_text().splitlines() if "-fatbin" in line] if calls.exists() else []


def test_a_build_is_kept_until_a_source_changes(sources: Path, fake_nvcc: Path, tmp_path: Path) -> None:
    first = build_kernels(tmp_path / "kept")
    assert build_kernels(tmp_path / "kept") == first
    assert len(_calls(fake_nvcc)) == 1
    assert first.compiler == "nvcc 13.0"
    assert [usage.kernel for usage in first.usage] == ["row_sums", "scale"]
    assert [path.name for path in (tmp_path / "kept").iterdir() if path.name.startswith(".")] == []
    (sources / "factor.cuh").write_text("constexpr float kFactor = 3.f;\n")
    build_kernels(tmp_path / "kept")
    assert len(_calls(fake_nvcc)) == 2


def test_a_full_build_has_code_for_all_and_intermediate_code_for_newer(
    sources: Path, fake_nvcc: Path, tmp_path: Path
) -> None:
    image = build_kernels(tmp_path / "kept").images[0].decode()
    assert "arch=compute_80,code=[sm_80,sm_86,sm_89]" in image
    assert "arch=compute_90,code=[sm_90,sm_100,compute_90]" in image
    assert "arch=compute_120,code=[sm_120]" in image
    assert "fast_math" not in image


@pytest.mark.parametrize(
    ("architecture", "code"),
    [
        (80, "sm_80]"),
        (87, "sm_86]"),
        (90, "sm_90,compute_90]"),
        (103, "sm_100]"),
        (130, "code=[sm_90,compute_90]"),
        (121, "code=[sm_120]"),
    ],
)
def test_first_use_builds_for_one_gpu(
    sources: Path, fake_nvcc: Path, tmp_path: Path, architecture: int, code: str
) -> None:
    image = kernel_images(tmp_path / "kept", architecture=architecture).images[0].decode()
    assert image.count("-gencode") == 1
    assert code in image


def test_first_use_takes_a_full_build_that_is_there(sources: Path, fake_nvcc: Path, tmp_path: Path) -> None:
    built = build_kernels(tmp_path / "kept")
    assert kernel_images(tmp_path / "kept", architecture=89) == built
    assert len(_calls(fake_nvcc)) == 1


def test_errors_carry_the_compilers_lines_and_leave_nothing(sources: Path, fake_nvcc: Path, tmp_path: Path) -> None:
    (sources / "scale.cu").write_text(SCALE.replace("kFactor", "undeclared"))
    with pytest.raises(
        BuildError, match=r'nvcc 13\.0 can\'t compile scale\.cu:\nscale\.cu\(3\): error: identifier "undeclared"'
    ):
        build_kernels(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_that_cannot_be_written(sources: Path, fake_nvcc: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="can't be written"):
        build_kernels(tmp_path / "file" / "kept")


def test_old_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"compute capability 7\.5, wanted 8\.0"):
        kernel_images(tmp_path, architecture=75)


def test_without_any_compiler(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    monkeypatch.setattr(building, "find_nvrtc", lambda: None)
    with pytest.raises(BackendUnavailableError, match="neither nvcc nor NVRTC .*pip install nvidia-cuda-nvrtc"):
        kernel_images(tmp_path, architecture=90)
    with pytest.raises(BackendUnavailableError, match="nvcc is neither on PATH"):
        build_kernels(tmp_path)


def test_a_slow_build_says_so(sources: Path, fake_nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "SLOW_SECONDS", 0.0)
    said: list[str] = []
    kernel_images(tmp_path / "kept", architecture=90, say=said.append)
    assert said == ["trt-vqgan: compiling the CUDA kernels with nvcc for sm_90, once …"]


class FakeNvrtc:
    version = "13.0"

    def __init__(self, image: bytes | None) -> None:
        self.image = image
        self.options: list[str] = []

    def compile(self, text: str, *, name: str, options: list[str]) -> tuple[bytes | None, str]:
        assert "__global__" in text
        self.options = options
        return self.image, PRINTED if self.image else f"{name}(3): error: no"


def test_nvrtc_stands_in_for_nvcc(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvrtc(b"machine code")
    monkeypatch.setattr(building, "find_nvcc", lambda: None)
    monkeypatch.setattr(building, "find_nvrtc", lambda: library)
    built = kernel_images(tmp_path / "kept", architecture=103)
    assert built.images == (b"machine code",)
    assert built.compiler == "NVRTC 13.0"
    assert built.architectures == (103,)
    assert "--gpu-architecture=sm_103" in library.options
    monkeypatch.setattr(building, "find_nvrtc", lambda: None)
    assert kernel_images(tmp_path / "kept", architecture=103) == built
    monkeypatch.setattr(building, "find_nvrtc", lambda: FakeNvrtc(None))
    with pytest.raises(BuildError, match=r"NVRTC 13\.0 can't compile scale\.cu:\nscale\.cu\(3\): error: no"):
        kernel_images(tmp_path / "kept", architecture=90)


def test_the_real_nvrtc_compiles_the_real_sources(tmp_path: Path) -> None:
    library = find_nvrtc()
    if library is None:
        pytest.skip("NVRTC and CUDA's headers are not on this machine")
    compiler = building._NvrtcCompiler(library)
    for name in ("pixels.cu", "gather_codes.cu", "nearest_code.cu"):
        printed = compiler.compile(building.SOURCES / name, tmp_path / "image", (90,))
        assert (tmp_path / "image").read_bytes()[:4] == b"\x7fELF"
        assert resource_usage(printed)
