"""The one module that runs TensorRT engines: a serialized engine to work that is put on a stream.

Thin by design: memory, streams and CUDA graphs belong to the caller, whose CUDA context must be current. No line of it
that needs a GPU has run yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trt_vqgan.errors import CudaError, EngineMismatchError, ShapeError
from trt_vqgan.runtime.jit_cache import JitCache
from trt_vqgan.tensorrt_package import RTX, TensorRT, TensorRTLog


class LoadedEngine:
    """A deserialized engine, with its weights on the GPU; `session` makes what runs it.

    Parameters
    ----------
    data : the serialized engine.
    tensorrt : the TensorRT that built it.
    name : of its graph, for messages.
    jit : keeps what TensorRT-RTX compiles for this GPU; full TensorRT compiles nothing here.

    Raises
    ------
    EngineMismatchError : TensorRT can't load it here; carries its own log lines.
    """

    def __init__(self, data: bytes, *, tensorrt: TensorRT, name: str, jit: JitCache | None = None) -> None:
        self.name = name
        self._jit = jit if tensorrt.package == RTX else None
        self._tensorrt = tensorrt
        self._log = TensorRTLog(tensorrt.module)
        self._runtime = tensorrt.module.Runtime(self._log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineMismatchError(
                f"the engine of {name} can't be loaded by {tensorrt.title}: {self._log.told()}; build it again on, or "
                "for, this GPU"
            )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of inputs and outputs."""
        return tuple(self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors))

    def save_compiled(self) -> None:
        """Keep what was compiled for this GPU, for the next process; the CUDA context must be current."""
        if self._jit is not None:
            self._jit.save()

    def session(self, *, profile: int, stream_handle: int) -> EngineSession:
        """Return a session that runs the engine in one of its profiles.

        Parameters
        ----------
        profile : index of the profile.
        stream_handle : of the stream on which the context is set up; synchronise it before capturing.
        """
        trt = self._tensorrt.module
        by_caller = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._tensorrt.package == RTX:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(by_caller)
            # kernels must not be replaced behind a captured graph, and graphs are ours
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
            if self._jit is not None:
                self._jit.use_in(config)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(by_caller)
        if context is None or not context.set_optimization_profile_async(profile, stream_handle):
            raise CudaError(f"the engine of {self.name}: no context for profile {profile}. {self._log.told()}")
        modes = {name: self._engine.get_tensor_mode(name) for name in self.tensors}
        inputs = frozenset(name for name, mode in modes.items() if mode == trt.TensorIOMode.INPUT)
        return EngineSession(context, inputs=inputs, engine=self, log=self._log)


class EngineSession:
    """One execution context. For a captured graph, bind everything, enqueue once, synchronise, then capture.

    Sessions that never run at the same time may share one scratch area.
    """

    def __init__(self, context: Any, *, inputs: frozenset[str], engine: LoadedEngine, log: TensorRTLog) -> None:
        self._context, self._inputs, self._log = context, inputs, log
        self._engine = engine  # must outlive the context

    def bind(self, name: str, pointer: int, shape: Sequence[int]) -> None:
        """Set where an input or output lies, and an input's shape.

        Raises
        ------
        ShapeError : a name that the engine doesn't have, or a shape outside of the profile.
        """
        if name in self._inputs and not self._context.set_input_shape(name, tuple(shape)):
            raise ShapeError(f"engine of {self._engine.name}: {name} of shape {tuple(shape)} is outside of its profile")
        if not self._context.set_tensor_address(name, pointer):
            raise ShapeError(f"engine of {self._engine.name}: found tensor {name!r}, it has {self._engine.tensors}")

    def scratch_bytes(self) -> int:
        """Return the scratch memory that a run with the shapes bound now needs."""
        return int(self._context.update_device_memory_size_for_shapes())

    def bind_scratch(self, pointer: int, size_bytes: int) -> None:
        """Set the scratch memory, aligned to 256 bytes and at least `scratch_bytes`."""
        self._context.set_device_memory(pointer, size_bytes)

    def capturable(self, stream_handle: int) -> bool:
        """Whether a run on a stream may be captured; full TensorRT doesn't say, and then it is taken for granted."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return True if asked is None else bool(asked(stream_handle))

    def enqueue(self, stream_handle: int) -> None:
        """Put a run on a stream and return.

        Raises
        ------
        CudaError : TensorRT refuses; carries its own log lines.
        """
        if not self._context.execute_async_v3(stream_handle):
            raise CudaError(f"the engine of {self._engine.name} didn't start. {self._log.told()}")
