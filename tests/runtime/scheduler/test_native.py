"""The running batch keeps its promises with the CPU kernels: its own tests, run once more."""

from __future__ import annotations

from tests.runtime.scheduler import test_running_batch
from tests.runtime.through_native import native_engine, once_more, test_it_is_the_cpu_kernels_that_run

__all__ = ["native_engine", "test_it_is_the_cpu_kernels_that_run"]

globals().update(once_more(test_running_batch))
