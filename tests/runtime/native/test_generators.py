"""The loops that draw codes keep every promise with the CPU kernels: their own tests, run once more."""

from __future__ import annotations

from tests.runtime import test_code_generator, test_window_generator
from tests.runtime.through_native import native_engine, once_more, test_it_is_the_cpu_kernels_that_run

__all__ = ["native_engine", "test_it_is_the_cpu_kernels_that_run"]

for module in (test_code_generator, test_window_generator):
    globals().update(once_more(module))
