"""In which precision a decoder runs."""

from __future__ import annotations

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.manifest import Manifest
from trt_vqgan.runtime.backend_choice import PicturePrecision
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.network import Precision
from trt_vqgan.runtime.native.network_library import best_instructions, open_network_library


def decoder_precision(asked: PicturePrecision, manifest: Manifest) -> Precision:
    """Return the precision of the decoder's convolutions.

    Parameters
    ----------
    asked : "auto" is bf16 where the processor has instructions for it and the bundle is of reduced precision anyway:
        its decoder's weights in float16, or its transformer's in 8 or 4 bits.

    Raises
    ------
    BackendUnavailableError : bf16 was asked for and the processor hasn't got it.
    """
    if asked == "fp32":
        return "fp32"
    here = best_instructions(open_network_library(built_library()), bf16=True) != ""
    if asked == "bf16" and not here:
        raise BackendUnavailableError(
            "picture precision bf16: this processor, or the compiler that built the kernels, has no AMX bf16 "
            "instructions; use --picture-precision fp32"
        )
    kinds = {graph: manifest.precision.get(graph, "fp32") for graph in ("decoder", "transformer")}
    return "bf16" if here and (asked == "bf16" or any(kind != "fp32" for kind in kinds.values())) else "fp32"
