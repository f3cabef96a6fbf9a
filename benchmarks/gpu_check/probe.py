"""Which GPU this machine has, asked of the CUDA driver itself, so that the answer needs no package."""

from __future__ import annotations

import ctypes
import sys

CUDA_SUCCESS = 0
DRIVER_NAMES = ("libcuda.so.1", "nvcuda.dll")


def probe() -> tuple[int, str]:
    """Return the number of CUDA devices and one line that says what was found.

    Returns
    -------
    (count, line) : count is 0 where there is no driver, where it doesn't start, or where it sees no device.
    """
    driver = None
    for name in DRIVER_NAMES:
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if driver is None:
        return 0, f"no GPU on this machine: the CUDA driver library ({' or '.join(DRIVER_NAMES)}) is not installed"
    status = driver.cuInit(0)
    if status != CUDA_SUCCESS:
        return 0, f"no GPU on this machine: the CUDA driver is installed, but cuInit failed with status {status}"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != CUDA_SUCCESS or count.value == 0:
        return 0, "no GPU on this machine: the CUDA driver starts, but sees no device"
    return count.value, f"{count.value} CUDA device(s) on this machine"


if __name__ == "__main__":  # asked by the Makefile before it makes an environment
    found, answer = probe()
    print(answer)
    sys.exit(found == 0)
