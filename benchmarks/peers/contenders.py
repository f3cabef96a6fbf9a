"""Which runtimes are compared, each in which precisions."""

from __future__ import annotations

import dataclasses
import importlib.util
from importlib import metadata

_HERE = __name__.rpartition(".")[0]

BITS = ("fp32", "bf16", "int8", "int4")
"""Groups that are compared with each other."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """One runtime.

    Attributes
    ----------
    name : of the runtime.
    module : that runs it, see `job.Job.module`.
    imports : modules that must be there.
    packages : distributions whose versions are told.
    exact : whether its float32 computes the published formulas, so that its codes must be torch's.
    prefills : whether its prefill is measured, with the logits of all tokens.
    """

    name: str
    module: str
    imports: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    exact: bool = True
    prefills: bool = False

    @property
    def installed(self) -> bool:
        """Whether all that it needs can be imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.imports)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A runtime in one precision.

    Attributes
    ----------
    bits : one of `BITS`: the group that it is measured in.
    precision : as the runtime names it.
    """

    runtime: Runtime
    bits: str
    precision: str

    @property
    def name(self) -> str:
        """The contender's name in lines about it."""
        return f"{self.runtime.name} {self.precision}"


TORCH = Runtime("torch", f"{_HERE}.torch_peer", ("torch",))
NATIVE = Runtime("native", f"{_HERE}.native_peer", ("onnx",), prefills=True)
ONNX_RUNTIME = Runtime("ONNX Runtime", f"{_HERE}.onnxruntime_peer", ("onnx",), prefills=True)
GENAI = Runtime("onnxruntime-genai", f"{_HERE}.genai_peer", ("onnxruntime_genai", "onnx"), ("onnxruntime-genai",))
CTRANSLATE2 = Runtime("CTranslate2", f"{_HERE}.ctranslate2_peer", ("ctranslate2",), ("ctranslate2",))
OPENVINO = Runtime("OpenVINO", f"{_HERE}.openvino_peer", ("openvino",), ("openvino",), prefills=True)
OPENVINO_COMPRESSED = Runtime("OpenVINO", OPENVINO.module, ("openvino", "nncf"), ("openvino", "nncf"), prefills=True)
LLAMA = Runtime("llama.cpp", f"{_HERE}.llama_peer", ("llama_cpp", "gguf"), ("llama-cpp-python", "gguf"), exact=False)

BASELINE = Contender(TORCH, "fp32", "fp32")
"""What each round of the others is divided by."""

CONTENDERS = (
    Contender(NATIVE, "fp32", "fp32"),
    Contender(ONNX_RUNTIME, "fp32", "fp32"),
    Contender(GENAI, "fp32", "fp32"),
    Contender(CTRANSLATE2, "fp32", "float32"),
    Contender(OPENVINO, "fp32", "f32"),
    Contender(LLAMA, "fp32", "f32"),
    Contender(CTRANSLATE2, "bf16", "bfloat16"),
    Contender(OPENVINO, "bf16", "bf16"),
    Contender(NATIVE, "int8", "int8"),
    Contender(ONNX_RUNTIME, "int8", "int8"),
    Contender(GENAI, "int8", "int8"),
    Contender(CTRANSLATE2, "int8", "int8"),
    Contender(OPENVINO_COMPRESSED, "int8", "int8_sym"),
    Contender(LLAMA, "int8", "q8_0"),
    Contender(LLAMA, "int8", "q8_0 no-repack"),
    Contender(NATIVE, "int4", "int4"),
    Contender(ONNX_RUNTIME, "int4", "int4"),
    Contender(GENAI, "int4", "int4"),
    Contender(OPENVINO_COMPRESSED, "int4", "int4_sym"),
    Contender(LLAMA, "int4", "q4_0"),
    Contender(LLAMA, "int4", "q4_0 no-repack"),
)


def package_versions(contenders: tuple[Contender, ...] = CONTENDERS) -> dict[str, str | None]:
    """Return the version of each distribution of the others; None for those not installed."""
    versions: dict[str, str | None] = {}
    for package in (package for contender in contenders for package in contender.runtime.packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions
