"""Our kernels on a GPU."""

from __future__ import annotations

from trt_vqgan.cache_folder import cache_folder
from trt_vqgan.kernels.building import KernelImages, kernel_images
from trt_vqgan.runtime.device.cuda import CudaDevice


def architecture(device: CudaDevice) -> int:
    """Return a device's compute capability as one number, 90 for 9.0."""
    major, minor = device.architecture
    return 10 * major + minor


def load_kernels(device: CudaDevice) -> KernelImages:
    """Load the kernels, compiled now if they aren't kept, into an active device; return what was loaded.

    Raises
    ------
    BackendUnavailableError, BuildError : as `trt_vqgan.kernels.building.kernel_images`.
    CudaError : the driver refuses an image.
    """
    kernels = kernel_images(cache_folder(), architecture=architecture(device))
    for image in kernels.images:
        device.load_kernels(image)
    return kernels
