"""The one module that builds TensorRT engines: an ONNX graph to a serialized engine, with TensorRT or TensorRT-RTX.

The network is strongly typed: every layer computes in the dtypes that the graph says, float32 products through TF32.
Engines leave their scratch memory to the caller and use one stream, so that they can be captured in CUDA graphs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_vqgan.atomic_file import write_bytes
from trt_vqgan.engine_records import Profile
from trt_vqgan.errors import BackendUnavailableError, BuildError
from trt_vqgan.export.engine_log import EngineReport, read_engine_log
from trt_vqgan.local_gpu import local_gpus
from trt_vqgan.tensorrt_package import FULL, RTX, TensorRT, TensorRTLog

OLDEST_TARGET = 80
"""Our kernels, which run between engines, need this architecture."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine (anything with the buffer protocol), and what its build told of it, if it did."""

    data: Any
    report: EngineReport | None


def possible_targets(tensorrt: TensorRT) -> tuple[str, ...]:
    """Return the GPU architectures that engines can be built for here: "sm80" …

    Raises
    ------
    BackendUnavailableError : full TensorRT, which builds for the GPU that it runs on, and no GPU.
    """
    if tensorrt.package == RTX:
        numbers = [int(name[2:]) for name in dir(tensorrt.module.ComputeCapability) if name.startswith("SM")]
        return tuple(f"sm{number}" for number in sorted(numbers) if number >= OLDEST_TARGET)
    try:
        return tuple(dict.fromkeys(gpu.target for gpu in local_gpus()))
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"{tensorrt.title} builds engines for the GPU that it runs on: {error}; build on the GPU's machine, or "
            "with TensorRT-RTX in an environment without tensorrt (`pip install 'trt-vqgan[tensorrt-rtx]'`)"
        ) from None


def check_targets(targets: Sequence[str], tensorrt: TensorRT) -> tuple[str, ...]:
    """Return targets sorted and without repetition.

    Raises
    ------
    BuildError : one that isn't an architecture, or that this TensorRT can't build for; says why and what does.
    """
    possible = possible_targets(tensorrt)
    for target in targets:
        if not (target.startswith("sm") and target[2:].isdigit()):
            raise BuildError(f"target {target!r}: wanted an architecture as {', '.join(possible)}")
        if target in possible:
            continue
        if int(target[2:]) < OLDEST_TARGET:
            reason = f"the kernels that run between engines need sm{OLDEST_TARGET}"
        elif tensorrt.package == RTX:
            reason = (
                f"{tensorrt.title} builds for {', '.join(possible)}; for other GPUs build with full TensorRT on a "
                "machine that has one, or use --backend cuda, which needs no engines"
            )
        else:
            reason = f"{tensorrt.title} builds for the GPU that it runs on, here {', '.join(possible)}"
        raise BuildError(f"target {target}: {reason}")
    return tuple(sorted(set(targets), key=lambda target: int(target[2:])))


def build_engine(
    graph: Path, *, tensorrt: TensorRT, targets: Sequence[str], profiles: Sequence[Profile], timings: Path | None = None
) -> BuiltEngine:
    """Return the engine of an ONNX graph.

    Parameters
    ----------
    graph : the file; its external weights lie beside it.
    targets : of `check_targets`. TensorRT-RTX makes one engine for all of them, of the size of one.
    profiles : in the order of their indices.
    timings : file of full TensorRT's timing cache, read if it is there and then replaced; not for TensorRT-RTX, where
        a timing cache needs a GPU and changes nothing.

    Raises
    ------
    KeyboardInterrupt : Ctrl-C came; TensorRT stopped at its next step.
    BuildError : TensorRT can't parse the graph or build it; carries its own log lines.
    """
    with _interruptible() as stop:
        return _build(graph, tensorrt, targets, profiles, timings, stop)


def _build(
    graph: Path,
    tensorrt: TensorRT,
    targets: Sequence[str],
    profiles: Sequence[Profile],
    timings: Path | None,
    stop: Callable[[], bool],
) -> BuiltEngine:
    trt, log = tensorrt.module, TensorRTLog(tensorrt.module)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise BuildError(f"{graph}: {tensorrt.title} can't read it: {'; '.join(errors)}. {log.told()}")
    config = builder.create_builder_config()
    config.max_aux_streams = 0
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if tensorrt.package == RTX:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    for profile in profiles:
        _add_profile(builder, config, profile, graph, log)
    cache = _read_timings(config, timings) if timings is not None and tensorrt.package == FULL else None
    monitor = _monitor(trt, stop)  # held here: TensorRT keeps no reference
    config.progress_monitor = monitor
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BuildError(f"{graph}: {tensorrt.title} can't build it for {', '.join(targets)}. {log.told()}")
    if timings is not None and cache is not None:
        write_bytes(timings, bytes(cache.serialize()))
    return BuiltEngine(data=data, report=read_engine_log(log.details))


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Keep Ctrl-C from being raised inside TensorRT's callbacks, which swallow it; raise it at the end of the block.

    Yields what says whether it came. In a thread that signals don't reach there is nothing to keep.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda number, frame: came.set())
    try:
        yield came.is_set
    except BuildError:
        if not came.is_set():
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if came.is_set():
        raise KeyboardInterrupt


def _monitor(trt: Any, stop: Callable[[], bool]) -> Any:
    """Return what TensorRT asks, step by step, whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """Nothing to do."""

        def step_complete(self, phase: str, step: int) -> bool:
            """Say whether to go on."""
            return not stop()

        def phase_finish(self, phase: str) -> None:
            """Nothing to do."""

    return Monitor()


def _add_profile(builder: Any, config: Any, profile: Profile, graph: Path, log: TensorRTLog) -> None:
    made = builder.create_optimization_profile()
    for name, shapes in profile.shapes.items():
        made.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
    if config.add_optimization_profile(made) < 0:
        raise BuildError(f"{graph}: the profile for {profile.purpose} doesn't fit its inputs. {log.told()}")


def _read_timings(config: Any, timings: Path) -> Any:
    """Return the timing cache of a file, set into ``config``; an empty one where there is none that TensorRT takes."""
    cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
