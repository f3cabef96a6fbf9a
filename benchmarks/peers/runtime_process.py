"""The other side of `child`: starts a runtime's process, asks it, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.errors import TrtVqganError

Int64Array = npt.NDArray[np.int64]

ANSWER_SECONDS = 900.0
"""That one answer may take: converting a model, loading it, or drawing its pictures once."""


class RuntimeFailedError(TrtVqganError):
    """A runtime's process crashed, failed or didn't answer; the message says which."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a runtime.

    Attributes
    ----------
    codes : int64 (B, count).
    seconds : that it took.
    cpu_seconds : that its threads computed, all together.
    """

    codes: Int64Array
    seconds: float
    cpu_seconds: float


class RuntimeProcess:
    """A process that draws; it is there as long as the context is entered.

    Parameters
    ----------
    job : what it does.
    what : "draw", or "prepare", which ends by itself.

    Raises
    ------
    RuntimeFailedError : it can't be made ready.
    """

    def __init__(self, job: Job, *, what: str = "draw") -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._folder = job.folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trt_vqgan.benchmarks.peers.child", what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": str(job.threads)},
            text=True,
        )
        try:
            self.runner = str(self._ask(job.to_json()).get("runner", ""))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RuntimeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def draw(self, batch: int, count: int) -> Turn:
        """Return what one turn gave.

        Raises
        ------
        RuntimeFailedError : the process has ended, or ends, or doesn't answer.
        """
        found = self._ask(json.dumps([batch, count]))
        codes = np.array(found.pop("codes"), dtype=np.int64)
        if codes.shape != (batch, count):
            raise RuntimeFailedError(f"drew codes of shape {codes.shape}, wanted {(batch, count)}")
        return Turn(codes=codes, **found)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            assert file is not None
            with contextlib.suppress(OSError):  # of what was still to be written to a process that is gone
                file.close()
        self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(ANSWER_SECONDS):
                raise RuntimeFailedError(f"gave no answer within {ANSWER_SECONDS:.0f} s")
        answer = self._process.stdout.readline()
        if not answer:
            raise self._ended()
        found: dict[str, Any] = json.loads(answer)
        return found

    def _ended(self) -> RuntimeFailedError:
        status = self._process.wait()
        if status < 0:
            return RuntimeFailedError(f"crashed with signal {-status} ({signal.Signals(-status).name})")
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = lines[-1].replace(str(self._folder), "…") if lines else "nothing said"
        return RuntimeFailedError(f"ended with status {status}: {said}")


def prepare(job: Job) -> None:
    """Let the runtime write its files, in a process of its own.

    Raises
    ------
    RuntimeFailedError : it can't.
    """
    RuntimeProcess(job, what="prepare").close()
