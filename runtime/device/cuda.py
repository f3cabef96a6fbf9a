"""An NVIDIA GPU as a device, on pycuda, with cuda-bindings for graphs and cuBLASLt for products."""

from __future__ import annotations

import collections
import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError, CudaError, TrtVqganError
from trt_vqgan.kernels.launch import Launch
from trt_vqgan.runtime.device.arrays import DeviceArray, Region, checked_values
from trt_vqgan.runtime.device.cublaslt import CublasLt, load_cublaslt
from trt_vqgan.runtime.device.graphs import Bindings, CudaGraph
from trt_vqgan.runtime.device.interface import DeviceKind
from trt_vqgan.runtime.device.libraries import CudaLibraries, load_cuda_libraries
from trt_vqgan.runtime.device.translation import UPDATE_DRIVER, DeviceFacts, translated

OLDEST_DRIVER = 12000
"""As cuDriverGetVersion counts: 1000 x major + 10 x minor."""

OLDEST_ARCHITECTURE = (8, 0)
STATIC_SHARED_BYTES = 48 << 10
"""A kernel that wants more dynamic shared memory than this must say so first."""

LoadProducts = Callable[[], CublasLt]


class CudaDevice:
    """One GPU: its primary context, one stream, one memory pool.

    The primary context is the one that ONNX Runtime, TensorRT and torch use too, so arrays may be handed over as they
    are. Calls may come from several threads, each inside `active`, one at a time.

    Parameters
    ----------
    index : number of the GPU.
    libraries : the CUDA modules; loaded by default.
    load_products : opens cuBLASLt when `gemm` is first used.

    Raises
    ------
    BackendUnavailableError : no driver, no such GPU, one too old, or a library that is missing.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        libraries: CudaLibraries | None = None,
        load_products: LoadProducts = load_cublaslt,
    ) -> None:
        self.index = index
        self._facts = DeviceFacts(name=f"cuda:{index}")
        loaded = libraries if libraries is not None else load_cuda_libraries()
        self._driver = loaded.driver
        self._load_products = load_products
        self._products: CublasLt | None = None
        self._functions: dict[str, Any] = {}
        self._shared_bytes: dict[str, int] = {}  # that each function was allowed
        self._modules: list[Any] = []
        # allocations and graphs that went in a thread or at a time when nothing may be freed
        self._retired: collections.deque[Any] = collections.deque()
        self._out: weakref.WeakSet[PooledMemory] = weakref.WeakSet()  # what arrays hold
        self._bindings = Bindings(loaded.bindings, self._translate, self._retired.append)
        self._lock = threading.RLock()
        self._closed = False
        self._device = self._open_device()
        with self._checked("opening the GPU"):
            self._context = self._device.retain_primary_context()
        try:
            with self.active(), self._checked("opening the GPU"):
                self._stream = self._driver.Stream(flags=1)  # CU_STREAM_NON_BLOCKING: no order with the default stream
                self._pool = loaded.tools.DeviceMemoryPool()
                self.stream = int(self._stream.handle)
        except BaseException:
            self._context.detach()
            raise

    def _open_device(self) -> Any:
        with self._checked("starting the driver"):
            self._driver.init()
            version, count = self._driver.get_driver_version(), self._driver.Device.count()
        if version < OLDEST_DRIVER:
            raise BackendUnavailableError(
                f"the NVIDIA driver supports CUDA {version // 1000}.{version % 1000 // 10}, wanted "
                f"{OLDEST_DRIVER // 1000}.0 or newer; {UPDATE_DRIVER}"
            )
        if not 0 <= self.index < count:
            there = "no GPU" if count == 0 else "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            raise BackendUnavailableError(f"device cuda:{self.index}: there is {there} on this machine")
        with self._checked("opening the GPU"):
            device = self._driver.Device(self.index)
            name, architecture = device.name(), tuple(device.compute_capability())
            attribute = self._driver.device_attribute
            self.multiprocessors = int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT))
            self.shared_limit = int(device.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN))
        self.architecture: tuple[int, int] = (architecture[0], architecture[1])
        self._facts = DeviceFacts(name=name, architecture=f"sm_{architecture[0]}{architecture[1]}")
        if self.architecture < OLDEST_ARCHITECTURE:
            raise BackendUnavailableError(
                f"{name} is {self._facts.architecture}, wanted sm_80 (Ampere) or newer, whose tensor cores the kernels "
                "use"
            )
        return device

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> DeviceKind:
        """Where its memory is."""
        return "cuda"

    @property
    def name(self) -> str:
        """Of the GPU, such as "NVIDIA L4"."""
        return self._facts.name

    def describe(self) -> str:
        """Return what it is, for people."""
        return f"{self._facts.name} (cuda:{self.index}, {self._facts.architecture})"

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU's context this thread's current one; free what was left behind."""
        if self._closed:
            raise CudaError(f"{self._facts.name}: it was closed")
        self._context.push()
        try:
            self._free_retired()
            yield
        finally:
            self._context.pop()

    # --- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Return an array from the pool, with anything in it."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        self._free_retired()
        with self._checked(f"allocating {nbytes / 1e6:.1f} MB", memory=True):
            allocation = self._pool.allocate(max(nbytes, 1))
        memory = PooledMemory(allocation, nbytes, self._retired)
        self._out.add(memory)
        return DeviceArray(memory, memory.address, shape, kind)

    def upload(self, target: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Copy ``values`` from the host; the driver has taken them when this returns, as they are pageable."""
        target.check_alive()
        with self._checked("copying to the GPU"):
            self._driver.memcpy_htod_async(target.address, checked_values(target, values), self._stream)

    def download(self, source: DeviceArray) -> npt.NDArray[Any]:
        """Return a copy on the host, once all work issued before is done."""
        source.check_alive()
        result = np.empty(source.shape, dtype=source.dtype)
        with self._checked("copying from the GPU"):
            self._driver.memcpy_dtoh_async(result, source.address, self._stream)
            self._stream.synchronize()
        return result

    def fill_zero(self, target: DeviceArray) -> None:
        """Set every byte to zero."""
        target.check_alive()
        if target.nbytes:
            with self._checked("clearing memory"):
                self._driver.memset_d8_async(target.address, 0, target.nbytes, self._stream)

    def copy(self, target: Region, source: Region, *, width: int, rows: int = 1, planes: int = 1) -> None:
        """Copy ``planes`` x ``rows`` runs of ``width`` bytes between arrays of the GPU, in one call."""
        for region in (target, source):
            region.array.check_alive()
            region.check_extent(planes, rows, width)
        if not width * rows * planes:
            return
        copy = self._driver.Memcpy3D()
        copy.set_src_device(source.array.address + source.offset)
        copy.set_dst_device(target.array.address + target.offset)
        copy.src_pitch, copy.dst_pitch = source.pitch, target.pitch
        copy.src_height, copy.dst_height = max(source.plane_rows, rows), max(target.plane_rows, rows)
        copy.width_in_bytes, copy.height, copy.depth = width, rows, planes
        with self._checked("copying on the GPU"):
            copy(self._stream)

    # --- work ---------------------------------------------------------------------------------------------------------

    def load_kernels(self, image: bytes) -> None:
        """Load a fatbin or cubin."""
        with self._checked("loading the kernels"):
            self._modules.append(self._driver.module_from_buffer(image))

    def launch(self, launch: Launch) -> None:
        """Run a kernel of a loaded module."""
        with self._checked(f"launching {launch.kernel}"):
            function = self._function(launch.kernel, launch.shared_bytes)
            function(
                *launch.arguments,
                grid=launch.grid,
                block=launch.block,
                shared=launch.shared_bytes,
                stream=self._stream,
            )

    def _function(self, name: str, shared_bytes: int) -> Any:
        function = self._functions.get(name)
        if function is None:
            function = self._find_function(name)
            self._functions[name] = function
        if shared_bytes > self._shared_bytes.get(name, STATIC_SHARED_BYTES):
            function.set_attribute(self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
            self._shared_bytes[name] = shared_bytes
        return function

    def _find_function(self, name: str) -> Any:
        for module in self._modules:
            with contextlib.suppress(self._driver.LogicError):  # this module has no such kernel
                return module.get_function(name)
        raise CudaError(f"{self._facts.name}: no loaded module has the kernel {name}; build the kernels again")

    def gemm(self, x: DeviceArray, weight: DeviceArray, out: DeviceArray, *, accumulate: bool = False) -> None:
        """Write ``x`` (M, K) times ``weight`` (N, K) transposed to ``out`` (M, N), float32 inside, by cuBLASLt."""
        if self._products is None:
            products = self._load_products()
            products.open(self)
            self._products = products
        self._products.gemm(x, weight, out, accumulate=accumulate, stream=self.stream)

    def capture(self, issue: Callable[[], None]) -> CudaGraph:
        """Return what ``issue`` issues as a CUDA graph, without running it."""
        return self._bindings.capture(self.stream, issue)

    def record(self) -> CudaEvent:
        """Return the point behind all that was issued."""
        with self._checked("recording an event"):
            event = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
            event.record(self._stream)
        return CudaEvent(self, event)

    def synchronize(self) -> None:
        """Wait until all work is done."""
        with self._checked("waiting for the GPU"):
            self._stream.synchronize()

    def wait_for_stream(self, stream: int) -> None:
        """Let work issued from now on run behind what a caller's stream holds now."""
        self._bindings.order(before=stream, after=self.stream)

    def let_stream_wait(self, stream: int) -> None:
        """Let what is put into a caller's stream from now on run behind the work issued so far."""
        self._bindings.order(before=self.stream, after=stream)

    # --- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for the work, give memory, modules, stream and context back; arrays that are left are freed."""
        with self._lock:
            if self._closed:
                return
            try:
                self._context.push()
                try:
                    self._give_back()
                finally:
                    self._context.pop()
            finally:
                self._closed = True
                self._context.detach()

    def _give_back(self) -> None:
        try:
            self.synchronize()
        finally:
            if self._products is not None:
                self._products.close()
            for memory in list(self._out):
                memory.free()
            self._free_retired()
            self._functions.clear()
            self._modules.clear()
            self._pool.stop_holding()
            del self._stream

    def _free_retired(self) -> None:
        while self._retired:
            self._retired.popleft().free()

    @contextlib.contextmanager
    def _checked(self, doing: str, *, memory: bool = False) -> Iterator[None]:
        try:
            yield
        except TrtVqganError:
            raise
        except self._driver.Error as error:
            raise self._translate(str(error), doing, memory=memory) from error

    def _translate(self, reported: str, doing: str, *, memory: bool = False) -> TrtVqganError:
        facts = self._facts
        if memory:
            with contextlib.suppress(self._driver.Error):  # a broken context doesn't say how much there is
                free, total = self._driver.mem_get_info()
                facts = DeviceFacts(
                    name=facts.name, architecture=facts.architecture, free_bytes=free, total_bytes=total
                )
        return translated(reported, doing=doing, facts=facts)


class PooledMemory:
    """An allocation of a GPU's memory pool.

    When nothing refers to it any more, it is left for the device to free at its next call, since that may happen in a
    thread without a context or while a graph is captured.
    """

    def __init__(self, allocation: Any, nbytes: int, retired: collections.deque[Any]) -> None:
        self.address = int(allocation)
        self.nbytes = nbytes
        self._allocation: Any | None = allocation
        self._retired = retired

    @property
    def is_free(self) -> bool:
        """Whether it was given back."""
        return self._allocation is None

    def free(self) -> None:
        """Give it back to the pool. Work that uses it may be under way: what the pool hands out next comes later."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            self._retired.append(allocation)

    def __del__(self) -> None:
        self.free()


class CudaEvent:
    """A point in the stream's order."""

    def __init__(self, device: CudaDevice, event: Any) -> None:
        self._device, self._event = device, event

    def wait(self) -> None:
        """Return once all work before the point is done."""
        with self._device._checked("waiting for the GPU"):
            self._event.synchronize()
