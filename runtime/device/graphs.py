"""CUDA graphs, and order between streams, through cuda-bindings: pycuda has neither."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from trt_vqgan.errors import CudaError, TrtVqganError

Translate = Callable[[str, str], TrtVqganError]
"""Makes an error of what a call reported and of what was being done."""


class Bindings:
    """Calls of ``cuda.bindings.driver`` whose status is checked.

    Parameters
    ----------
    driver : the module.
    translate : makes an error of a failed call.
    retire : takes what a dropped graph leaves behind, to free it at a time when that is safe.
    """

    def __init__(self, driver: Any, translate: Translate, retire: Callable[[_Executable], None]) -> None:
        self.driver = driver
        self.retire = retire
        self._translate = translate

    def call(self, name: str, *arguments: Any, doing: str) -> Any:
        """Return what the call gives beside its status: None, or the one value.

        Raises
        ------
        CudaError, BackendUnavailableError : it failed.
        """
        status, *values = getattr(self.driver, name)(*arguments)
        if int(status) != 0:
            raise self._translate(f"{name} failed: {self._describe(status)}", doing)
        return values[0] if values else None

    def _describe(self, status: Any) -> str:
        code = getattr(status, "name", str(status))
        found, text = self.driver.cuGetErrorString(status)
        return f"{code}, {text.decode()}" if int(found) == 0 and text else str(code)

    def order(self, *, before: int, after: int) -> None:
        """Let what is put into stream ``after`` from now on run behind what stream ``before`` holds now."""
        doing = "ordering two streams"
        event = self.call(
            "cuEventCreate", int(self.driver.CUevent_flags.CU_EVENT_DISABLE_TIMING), doing=doing
        )  # the driver keeps what it needs once the event is recorded and waited for
        try:
            self.call("cuEventRecord", event, self.driver.CUstream(before), doing=doing)
            self.call("cuStreamWaitEvent", self.driver.CUstream(after), event, 0, doing=doing)
        finally:
            self.call("cuEventDestroy", event, doing=doing)

    def capture(self, stream: int, issue: Callable[[], None]) -> CudaGraph:
        """Return what ``issue`` puts into ``stream`` as a graph.

        The mode is thread-local: other threads may go on. Python's collector is off meanwhile, since a destructor that
        frees memory would end the capture.
        """
        handle = self.driver.CUstream(stream)
        mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        doing = "capturing a CUDA graph"
        collecting = gc.isenabled()
        gc.disable()
        try:
            self.call("cuStreamBeginCapture", handle, mode, doing=doing)
            issued = False
            try:
                issue()
                issued = True
            finally:
                graph = self._end(handle, doing=doing, checked=issued)
        finally:
            if collecting:
                gc.enable()
        try:
            executable = self.call("cuGraphInstantiate", graph, 0, doing=doing)
        finally:
            self.call("cuGraphDestroy", graph, doing=doing)
        made = CudaGraph(self, _Executable(self, executable), stream)
        try:
            self.call("cuGraphUpload", executable, handle, doing=doing)
        except TrtVqganError:
            made.free()
            raise
        return made

    def _end(self, handle: Any, *, doing: str, checked: bool) -> Any:
        """End the capture; where issuing failed already, that error is the one to tell."""
        if checked:
            return self.call("cuStreamEndCapture", handle, doing=doing)
        status, *graph = self.driver.cuStreamEndCapture(handle)
        if int(status) == 0 and graph and int(graph[0]) != 0:
            self.driver.cuGraphDestroy(graph[0])
        return None


class _Executable:
    """A graph's executable form."""

    def __init__(self, bindings: Bindings, handle: Any) -> None:
        self._bindings, self.handle = bindings, handle

    def free(self) -> None:
        """Give it back."""
        self._bindings.call("cuGraphExecDestroy", self.handle, doing="freeing a CUDA graph")


class CudaGraph:
    """A graph on one stream."""

    def __init__(self, bindings: Bindings, executable: _Executable, stream: int) -> None:
        self._bindings = bindings
        self._executable: _Executable | None = executable
        self._stream = bindings.driver.CUstream(stream)

    def replay(self) -> None:
        """Issue it once more."""
        if self._executable is None:
            raise CudaError("CUDA graph: it was freed, so it can't be replayed")
        self._bindings.call("cuGraphLaunch", self._executable.handle, self._stream, doing="replaying a CUDA graph")

    def free(self) -> None:
        """Give it back."""
        executable, self._executable = self._executable, None
        if executable is not None:
            executable.free()

    def __del__(self) -> None:
        if self._executable is not None:
            self._bindings.retire(self._executable)
