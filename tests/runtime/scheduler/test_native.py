"""The running batch keeps its promises with the CPU kernels: its own tests, run once more."""

from __future__ import annotations

from tests.runtime.scheduler import test_running_batch
from tests.runtime.through_native import native_engine, test_it_is_the_cpu_kernels_that_run, tests_of

__all__ = ["native_engine", "test_it_is_the_cpu_kernels_that_run"]

globals().update(tests_of(test_running_batch))
