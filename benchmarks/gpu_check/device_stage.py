"""Which device, driver and packages gave the numbers."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess

from trt_vqgan.benchmarks.gpu_check.open_gpu import open_gpu
from trt_vqgan.benchmarks.gpu_check.records import Records
from trt_vqgan.benchmarks.gpu_check.settings import Settings
from trt_vqgan.benchmarks.machine import describe_versions
from trt_vqgan.cache_folder import cache_folder
from trt_vqgan.kernels.building import kernel_images
from trt_vqgan.runtime.gpu.kernels import architecture

_L2_BYTES = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
OPTIONAL = ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "onnx")


def run(records: Records, settings: Settings) -> None:
    """Open the device, build the kernels for it, and say what is there."""
    with open_gpu(settings.gpu) as device:
        driver = ctypes.CDLL("libcuda.so.1")
        version, l2 = ctypes.c_int(0), ctypes.c_int(0)
        driver.cuDriverGetVersion(ctypes.byref(version))
        driver.cuDeviceGetAttribute(ctypes.byref(l2), _L2_BYTES, ctypes.c_int(settings.gpu))
        images = kernel_images(cache_folder(), architecture=architecture(device))
        records.facts(
            "device",
            name=device.describe().partition(" (cuda:")[0],
            sm=architecture(device),
            driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
            l2=l2.value,
            multiprocessors=device.multiprocessors,
            clocks=_clocks(settings.gpu),
            compiler=images.compiler,
            versions=describe_versions(),
        )
        spilling = [f"{entry.kernel} sm_{entry.architecture}" for entry in images.usage if entry.spill_bytes]
        records.check("no kernel spills registers", not spilling, ", ".join(spilling) or f"{len(images.usage)} kernels")
    for name in OPTIONAL:
        if importlib.util.find_spec(name) is None:
            records.skip(f"package {name}", "not installed here")


def _clocks(gpu: int) -> str:
    """Return clocks, power and temperature as nvidia-smi prints them; empty without it."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--id={gpu}", query, "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
