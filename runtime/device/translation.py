"""What the CUDA driver reports, as one clear line each."""

from __future__ import annotations

import dataclasses

from trt_vqgan.errors import BackendUnavailableError, CudaError, TrtVqganError

UPDATE_DRIVER = "install a newer NVIDIA driver"

# Texts are those of cuGetErrorString, which pycuda and cuda-bindings both pass on; names those of cuGetErrorName.
_OUT_OF_MEMORY = ("out of memory", "ERROR_OUT_OF_MEMORY")
_NO_DEVICE = ("no CUDA-capable device", "ERROR_NO_DEVICE")
_BAD_ORDINAL = ("invalid device ordinal", "ERROR_INVALID_DEVICE")
_WRONG_ARCHITECTURE = (
    "no kernel image is available",
    "ERROR_NO_BINARY_FOR_GPU",
    "device kernel image is invalid",
    "ERROR_INVALID_IMAGE",
)
_OLD_DRIVER = (
    "driver version is insufficient",
    "ERROR_INSUFFICIENT_DRIVER",
    "unsupported display driver",
    "ERROR_SYSTEM_DRIVER_MISMATCH",
    "forward compatibility was attempted",
    "ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    "unsupported toolchain",
    "ERROR_UNSUPPORTED_PTX_VERSION",
)
_CONTEXT_LOST = (
    "illegal memory access",
    "ERROR_ILLEGAL_ADDRESS",
    "unspecified launch failure",
    "ERROR_LAUNCH_FAILED",
    "misaligned address",
    "ERROR_MISALIGNED_ADDRESS",
    "ECC error",
)
_KNOWN_BY_CAPTURE = ("when stream is capturing", "ERROR_STREAM_CAPTURE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What an error's line says about the device.

    Attributes
    ----------
    name : such as "NVIDIA H100".
    architecture : such as "sm_90"; None before the device is open.
    free_bytes, total_bytes : of its memory; None where unknown.
    """

    name: str
    architecture: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


def translated(reported: str, *, doing: str, facts: DeviceFacts) -> TrtVqganError:
    """Return the error to raise for what a CUDA call reported.

    Parameters
    ----------
    reported : the call's own text.
    doing : what was tried, such as "allocating 12.0 MB".
    facts : about the device.

    Returns
    -------
    BackendUnavailableError where this machine can't run it at all, else CudaError.
    """
    said = " ".join(reported.split())

    def says(texts: tuple[str, ...]) -> bool:
        return any(text.lower() in said.lower() for text in texts)

    if says(_OUT_OF_MEMORY):
        left = ""
        if facts.free_bytes is not None and facts.total_bytes is not None:
            left = f", {facts.free_bytes / 1e6:.0f} of {facts.total_bytes / 1e6:.0f} MB are free"
        return CudaError(
            f"{facts.name}: out of GPU memory while {doing}{left}; give a smaller --batch-size or picture, or end "
            "what else uses the GPU"
        )
    if says(_NO_DEVICE):
        return BackendUnavailableError(f"the NVIDIA driver is installed, but sees no GPU ({said})")
    if says(_BAD_ORDINAL):
        return BackendUnavailableError(f"{facts.name}: there is no such GPU on this machine ({said})")
    if says(_WRONG_ARCHITECTURE):
        return BackendUnavailableError(
            f"{facts.name} ({facts.architecture or 'unknown architecture'}): the kernels were not built for it "
            f"({said}); they are built for sm_80, 86, 89, 90, 100 and 120"
        )
    if says(_OLD_DRIVER):
        return BackendUnavailableError(
            f"{facts.name}: the driver is too old for these kernels ({said}); {UPDATE_DRIVER}"
        )
    if says(_CONTEXT_LOST):
        return CudaError(
            f"{facts.name}: a kernel failed while {doing} ({said}); the GPU can't be used by this process any more, "
            "start it again, and please report this"
        )
    if says(_KNOWN_BY_CAPTURE):
        return CudaError(
            f"{facts.name}: something that a CUDA graph can't hold was issued while {doing} ({said}); please report "
            "this"
        )
    return CudaError(f"{facts.name}: failed while {doing}: {said}")
