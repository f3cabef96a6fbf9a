"""A device of NumPy memory that runs the real CUDA sources, through the CPU shim, with graphs that freeze arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from tests.kernels.attention_case import load_small_heads
from tests.kernels.shim.shim import ShimLibrary, load
from trt_vqgan.errors import CudaError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray, Memory, Region
from trt_vqgan.runtime.device.host import HostDevice

SOURCES = (
    "bias.cu",
    "conv2d.cu",
    "conv2d_float.cu",
    "dense_rows.cu",
    "dense_step.cu",
    "embed_tokens.cu",
    "gather_codes.cu",
    "group_norm.cu",
    "layer_norm.cu",
    "nearest_code.cu",
    "picture_attention.cu",
    "picture_layout.cu",
    "pixels.cu",
    "sample_codes.cu",
)


@functools.cache
def libraries() -> tuple[ShimLibrary, ...]:
    """Return the kernels of the driver, compiled for the processor; attention for `SMALL_HEADS` only."""
    return load_small_heads(), *(load([source]) for source in SOURCES)


class ShimDevice(HostDevice):
    """`HostDevice` with kernels. Blocks and threads run in another order in each launch.

    Attributes
    ----------
    launched : kernels in order, replayed ones included.
    before_launch : called with each launch just before it runs.
    """

    multiprocessors = 6  # so that small matrices are split among blocks too

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.before_launch: Callable[[Launch], None] = lambda launch: None
        self._alive: list[Memory] = []
        self._kept: list[object] = []  # the bytes of freed memory, so that no address is given out twice
        self._recorded: list[Callable[[], None]] | None = None

    def allocate(self, shape: tuple[int, ...], dtype: object) -> DeviceArray:
        assert self._recorded is None, "allocated while a graph is captured"
        array = super().allocate(shape, dtype)  # type: ignore[arg-type]
        self.view(array).reshape(-1).view(np.uint8)[:] = 0xFF  # NaN for floats, -1 for ints: nothing may rely on it
        self._alive.append(array.memory)
        self._kept.append(self.view(array))
        return array

    def launch(self, launch: Launch) -> None:
        self._do(lambda: self._run(launch))

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool = False) -> None:
        self._do(lambda: super(ShimDevice, self).gemm(x, weight, out, accumulate=accumulate))

    def copy(self, target: Region, source: Region, *, width: int, rows: int = 1, planes: int = 1) -> None:
        self._do(lambda: super(ShimDevice, self).copy(target, source, width=width, rows=rows, planes=planes))

    def capture(self, issue: Callable[[], None]) -> RecordedGraph:
        self._recorded = []
        try:
            issue()
            return RecordedGraph(tuple(self._recorded))
        finally:
            self._recorded = None

    def _do(self, work: Callable[[], None]) -> None:
        if self._recorded is not None:
            self._recorded.append(work)
        else:
            work()

    def _run(self, launch: Launch) -> None:
        self._check_pointers(launch)
        self.before_launch(launch)
        self.launched.append(launch.kernel)
        (library,) = (each for each in libraries() if launch.kernel in each.signatures)
        library.launch(launch, seed=len(self.launched))

    def _check_pointers(self, launch: Launch) -> None:
        """Raise CudaError for an address in no live allocation: what a GPU would call an illegal access, or worse."""
        self._alive = [memory for memory in self._alive if not memory.is_free]
        for argument in launch.arguments:
            if not isinstance(argument, np.uint64) or not int(argument):
                continue
            if not any(memory.address <= int(argument) <= memory.address + memory.nbytes for memory in self._alive):
                raise CudaError(f"{launch.kernel}: an address of freed memory")


class RecordedGraph:
    """What was issued while capturing, with the arguments that it had then."""

    def __init__(self, work: tuple[Callable[[], None], ...]) -> None:
        self._work = work

    def replay(self) -> None:
        for each in self._work:
            each()

    def free(self) -> None:
        self._work = ()
